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

    `running` are to be brought forward, in this order of urgency: encoded if they are not, stepped, and when their last
    step is done decoded and stored, all by itself. They share one batch key and fit one step batch. `parked` are held as
    they are; a latent whose steps are done is decoded all the same. A held latent that is in neither is dropped, and its
    memory freed. `orders` tells of jobs that the worker has not yet confirmed to know.
    """

    scheduler: str
    worker: str
    number: int
    running: tuple[LatentId, ...]
    parked: tuple[LatentId, ...] = ()
    orders: tuple[JobOrder, ...] = ()


class SchedulerBeat(Message, frozen=True):
    """The scheduler lives. Every second to every peer it knows, and at once to one it does not."""

    scheduler: str


ToWorker = Membership | SchedulerBeat
