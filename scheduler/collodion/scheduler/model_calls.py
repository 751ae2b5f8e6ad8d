"""LoadModel and UnloadModel: checked, noted for `residency`, and answered at once with how the model then stands."""

from collodion.scheduler.catalogue import status_of
from collodion.scheduler.events import Outbox, TellFrontend
from collodion.scheduler.fleet import Fleet
from collodion.scheduler.residency import ResidencyRule
from collodion.wire.jobs import Reason
from collodion.wire.to_frontend import ModelAnswer, Refused
from collodion.wire.to_scheduler import LoadModel, UnloadModel


class ModelCalls:
    """Handles them. What they set off is decided at the end of the event; the answer is given then, by `answer`."""

    def __init__(self, fleet: Fleet, residency: ResidencyRule, outbox: Outbox) -> None:
        self._fleet = fleet
        self._residency = residency
        self._outbox = outbox
        self._due: list[tuple[bytes, int, str]] = []

    def handle(self, peer: bytes, message: LoadModel | UnloadModel, now: float) -> None:
        """One call of a frontend's."""
        model = message.model
        objection = self._objection(message)
        if objection is not None:
            self._outbox.add(TellFrontend(peer, Refused(message.call, *objection)))
            return
        if isinstance(message, LoadModel):
            self._residency.pin(model, now)
        else:
            self._residency.unpin(model)
        self._due.append((peer, message.call, model))

    def answer(self) -> None:
        """Answers what was called for in this event."""
        due, self._due = self._due, []
        for peer, call, model in due:
            status = status_of(model, self._fleet, self._residency)
            self._outbox.add(TellFrontend(peer, ModelAnswer(call, status)))

    def _objection(self, message: LoadModel | UnloadModel) -> tuple[Reason, str] | None:
        model = message.model
        workers = [worker for worker in self._fleet.workers.values() if model in worker.statuses]
        if not workers and self._fleet.info(model) is None:
            return Reason.MODEL_NOT_FOUND, f"there is no model {model[:64]}"
        if isinstance(message, UnloadModel):
            return None
        if not workers:
            return Reason.NO_WORKER, f"no worker that has the model {model} is alive"
        placement = self._residency.placement
        if not any(placement.fits(worker, model) for worker in workers):
            return Reason.MODEL_TOO_LARGE, placement.too_large(workers[0], model)
        return None
