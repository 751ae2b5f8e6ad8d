"""The scheduler: one process that owns every job and every decision, and no torch.

job, transitions   a job and its latents; where they may go from where
ids                names of jobs, in the order of acceptance
book, journal      every job there is, by all that it is asked for by; where jobs are kept
backlog            latents that wait for a worker, in the policy's order
fleet, frontends   the peers: what is known of them, and whether they live
watchers           the calls that watch a job, and what each was told
events             what the core hears and what it answers with
views, listing     what a client is shown of a job, of many
intake, reports    what a message of a frontend, of a worker, does
lifecycle          what happens to a job, and who is told
dispatch, policy   which latents each worker is to run
timers             what falls due when
cost, prediction   what a batch takes, when a job will be finished
core               all of it, pure: event and time in, commands out
census, metrics    how many of everything there are, for Prometheus
pruning            deletes old pictures, on a thread of its own
loop               sockets, signals, time and threads around the core
"""
