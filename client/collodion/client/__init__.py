"""The client of Collodion.

    from collodion.client import Client

    with Client("127.0.0.1:50051") as client:
        generation = client.generate("a large red circle on a blue background", steps=20)
        generation.images[0].pil.show()

`AsyncClient` is the same for asyncio, `collodion.client.errors` draws the tree of the exceptions.
"""

from collodion.client.aio import AsyncClient
from collodion.client.channel import DEFAULT_SERVER
from collodion.client.client import Client
from collodion.client.errors import (
    AccessDenied,
    ClientClosed,
    CollodionError,
    CorruptImage,
    CounterOffer,
    DeadlineInfeasible,
    Details,
    InvalidRequest,
    JobCancelled,
    JobError,
    JobFailed,
    JobLost,
    ModelUnusable,
    NotFound,
    NotReady,
    NotSupported,
    RequestIdReused,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    TimedOut,
    Violation,
)
from collodion.client.events import (
    Accepted,
    Cancelled,
    Event,
    Failed,
    Finished,
    ImageFailed,
    ImageReady,
    JobEvent,
    Preview,
    Progress,
    Reattached,
    StageChanged,
    Warned,
)
from collodion.client.images import Image
from collodion.client.jobs import (
    DeadlinePolicy,
    Explanation,
    Failure,
    ImageInfo,
    ImageProgress,
    Job,
    JobState,
    Lora,
    OutputFormat,
    Parameters,
    PromptSyntax,
    Stage,
    Timings,
)
from collodion.client.models import Adapter, AdapterKind, Model, ModelStatus, Optimization, Residency
from collodion.client.requests import JobOptions
from collodion.client.result import Generation
from collodion.client.retries import RetryPolicy
from collodion.client.tiers import Tier

__all__ = [
    "DEFAULT_SERVER",
    "Accepted",
    "AccessDenied",
    "Adapter",
    "AdapterKind",
    "AsyncClient",
    "Cancelled",
    "Client",
    "ClientClosed",
    "CollodionError",
    "CorruptImage",
    "CounterOffer",
    "DeadlineInfeasible",
    "DeadlinePolicy",
    "Details",
    "Event",
    "Explanation",
    "Failed",
    "Failure",
    "Finished",
    "Generation",
    "Image",
    "ImageFailed",
    "ImageInfo",
    "ImageProgress",
    "ImageReady",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobLost",
    "JobOptions",
    "JobState",
    "Lora",
    "Model",
    "ModelStatus",
    "ModelUnusable",
    "NotFound",
    "NotReady",
    "NotSupported",
    "Optimization",
    "OutputFormat",
    "Parameters",
    "Preview",
    "Progress",
    "PromptSyntax",
    "Reattached",
    "RequestIdReused",
    "Residency",
    "RetryPolicy",
    "ServerBusy",
    "ServerError",
    "ServerUnavailable",
    "Stage",
    "StageChanged",
    "Tier",
    "TimedOut",
    "Timings",
    "Violation",
    "Warned",
]
