"""Samplers as tables: the unmodified diffusers schedulers, probed once and replayed for a whole step batch.

The life of a sampler, in the order in which the files are used:

catalog     the names a request may ask for, and the diffusers scheduler that each stands for (no torch at import)
timetable   what a model's pipeline says to its scheduler beside the number of steps
reference   builds that scheduler for one model and walks it as a pipeline does
response    runs it once on basis vectors: how each call's output depends on every earlier input
realise     turns the responses into one small matrix a model call, with as little history as possible
table       `SamplerTable`, the result
counting    how many model calls so many steps take (no torch at import)
probing     `probe`: all of the above, checked against the scheduler on random data, and cached
noise       the random numbers of one latent
trajectory  one latent on its way through a table
update      one evaluation's update for a batch of trajectories, whatever their samplers

Only `catalog`, `counting` and `timetable` may be imported where there is no torch, so nothing is re-exported here.
"""
