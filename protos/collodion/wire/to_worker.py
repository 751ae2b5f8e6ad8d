"""What a worker hears: the scheduler's wish."""

from collodion.wire.jobs import LatentId, Message, Parameters


class JobOrder(Message, frozen=True):
    """What a worker has to know of a job to run its latents."""

    job: str
    parameters: Parameters
    preview_interval: int = 0


class Membership(Message, frozen=True):
    """The whole wish for one worker: hold these latents, step those.

    `scheduler` is the scheduler's incarnation and `worker` the incarnation that is meant; a worker ignores a membership
    for another incarnation, and one whose number is not above the last it applied from the same scheduler. A new
    `scheduler` starts anew.

    `running` are to be brought forward, in this order of urgency, by a rule that needs no further word. At each boundary:

    1. One batch of latents whose steps are done is decoded, those that finished first before others, all of one batch key.
    2. The first of `running` that has evaluations to go leads. It and those behind it that have evaluations to go and
       share its batch key, `caps[i]` in all where i is the leader's index in `running`, are the window. Latents whose model is not in
       memory are passed over.
    3. One batch of the window's jobs that are not encoded yet is encoded.
    4. Those of the window that are encoded are stepped once.

    With `after` it is not applied before the boundary at which that latent has so many evaluations (one more than it takes: at which
    it is decoded), or has ended, or is not held: so both sides know which boundary it is. Memberships with `after` wait for their
    turn one behind the other, since each was decided on the ground that the one before had its turn; where there is nothing to do
    the next is applied at once. One without `after` replaces all that wait.

    So when one finishes the next in line joins by itself. An empty `caps` puts no bound but the worker's own. `parked` are
    held as they are, the most urgent first; a latent whose steps are done is decoded all the same. A held latent that is
    in neither is dropped, and its memory freed. `orders` tells of jobs that the worker has not yet confirmed to know.
    """

    scheduler: str
    worker: str
    number: int
    running: tuple[LatentId, ...]
    caps: tuple[int, ...] = ()
    parked: tuple[LatentId, ...] = ()
    after: tuple[LatentId, int] | None = None
    orders: tuple[JobOrder, ...] = ()


class ResidencyWish(Message, frozen=True):
    """Which models one worker shall have in memory: the whole wish, so the newest replaces those before it.

    `scheduler`, `worker` and `number` are as in `Membership`, with numbers of its own. Of `models`, those that are not resident are
    loaded one after the other, the first first, beside the running steps; one that failed to load is tried again. What is resident and not
    named is dropped as soon as no held latent is of it. Until the first wish a worker keeps what it has. What is resident, by a
    `WorkerState` that says to have taken up this wish (`wished`), stays so while this wish and all that follow name it.
    """

    scheduler: str
    worker: str
    number: int
    models: tuple[str, ...]


class SchedulerBeat(Message, frozen=True):
    """The scheduler lives. Every second to every peer it knows, and at once to one it does not."""

    scheduler: str


ToWorker = Membership | ResidencyWish | SchedulerBeat
