"""A model's optimisations: applied in their order, and what came of them."""

import torch

from collodion.wire.jobs import Optimization
from collodion.worker.families.architecture import Architecture
from collodion.worker.optimize.observer import Observer
from collodion.worker.optimize.plan import Plan
from collodion.worker.optimize.ready import Ready


class Optimized:
    """Of one model that is being loaded, on the thread that loads it. Raises Unsuitable for what was asked for and cannot be.

    takes_masks: whether rows with prompts of different lengths may share a call.
    """

    def __init__(self, architecture: Architecture, plan: Plan, place: torch.device, observer: Observer) -> None:
        self.plan = plan
        self.observer = observer
        self.takes_masks = True
        self._done: list[Optimization] = [Optimization("dtype", str(plan.dtype).removeprefix("torch."))]
        self.ready = Ready(None, place, 0, observer)

    @property
    def report(self) -> tuple[Optimization, ...]:
        """What is in force."""
        return tuple(self._done)
