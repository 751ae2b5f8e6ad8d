"""Step caches: a latent whose model hardly changes from one evaluation to the next uses what the deep part made of the last one again.

1. A denoiser is had in three `parts`: a shallow one, which also tells how much has changed, a deep one, in which nearly all of its
   arithmetic is, and a tail. One after the other they are the denoiser, bit for bit.
2. `step_cache` decides for each latent by itself: strangers in one model call neither force nor forbid each other anything.
"""
