"""The scheduler: one process that owns every job and every decision, and no torch.

job, transitions   a job and its latents; where they may go from where
ids                names of jobs, in the order of acceptance
book, journal      every job there is, by all that it is asked for by; where jobs are kept
backlog            latents that wait for a worker, in the policy's order
fleet, frontends   the peers: what is known of them, and whether they live
demand, loads      which models are asked for, and what loading one takes
placement          where there is room for a model, and in whose place
residency          which models each worker is to have in memory
catalogue          what frontends are told of models
watchers           the calls that watch a job, and what each was told
events             what the core hears and what it answers with
views, listing     what a client is shown of a job, of many
intake, reports    what a message of a frontend, of a worker, does; model_calls: LoadModel and UnloadModel
lifecycle          what happens to a job, and who is told
dispatch, policy   which latents each worker is to run; what a policy is asked
baselines          the policies of other servers, to be measured beside
slack, fillers     the policy that keeps promises, and what runs without one
planning, plans    the workers' rule, run forward; what one worker is planned to do
planner            where a job can be promised
door, admission    who waits to be accepted, and who is promised, refused, or made an offer
shares             fairness between tenants
timers             what falls due when
cost_*, profiles   what a batch takes, how far that is off, and what was measured before
prediction         when a job will be finished
explain, remedies  why a job is not finished sooner, and what would help; in the words of wording
core               all of it, pure: event and time in, commands out
census, metrics    how many of everything there are, for Prometheus
pruning            deletes old pictures, on a thread of its own
loop               sockets, signals, time and threads around the core
"""
