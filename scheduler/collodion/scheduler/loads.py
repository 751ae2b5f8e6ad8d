"""What it costs to load a model on a kind of device: as was measured there, else by its size at the pace of other loads."""

from collodion.scheduler.fleet import Worker
from collodion.wire.jobs import ModelStatus, Residency

LOADS_OF_PATIENCE = 4.0  # so that loading takes at most a fifth of the time where models take turns
_NEWEST = 0.5  # weight of a measurement beside what was known
_LEAST_S = 0.001


class LoadCosts:
    """Learned from what workers say of their loads. load_mib_s: the pace that is supposed until one was measured.

    turn_s: how long models that are always busy stay at least before another has its turn.
    """

    def __init__(self, load_mib_s: float, turn_s: float) -> None:
        self._turn_s = turn_s
        self._supposed = load_mib_s * (1 << 20)
        self._seconds: dict[tuple[str, str], float] = {}
        self._pace: dict[str, float] = {}
        self._heard: dict[tuple[str, str], float] = {}

    def learn(self, worker: Worker) -> list[tuple[str, float]]:
        """Takes in what the worker says of its loads; those that are new, in seconds."""
        new = []
        for status in worker.statuses.values():
            load_s = status.load_s
            place = worker.incarnation, status.name
            # The same figure is said again and again; only a load of this worker's gives it another.
            if load_s is None or status.residency is not Residency.RESIDENT or self._heard.get(place) == load_s:
                continue
            self._heard[place] = load_s
            self._note(worker.device_kind, status, max(load_s, _LEAST_S))
            new.append((status.name, load_s))
        return new

    def forget(self, worker: Worker) -> None:
        """The worker is gone; what was learned from it stays."""
        self._heard = {place: load_s for place, load_s in self._heard.items() if place[0] != worker.incarnation}

    def known_s(self, worker: Worker, model: str) -> float | None:
        """As measured on such a device; None if it never was."""
        return self._seconds.get((worker.device_kind, model))

    def seconds(self, worker: Worker, model: str) -> float:
        """What loading it takes there, from its beginning."""
        known = self.known_s(worker, model)
        if known is not None:
            return known
        pace = self._pace.get(worker.device_kind, self._supposed)
        status = worker.statuses.get(model)
        return max(_LEAST_S, status.size_bytes / pace) if status is not None else _LEAST_S

    def patience_s(self, worker: Worker, model: str) -> float:
        """How long the model waits there before busy ones are drained for it."""
        return max(self._turn_s, LOADS_OF_PATIENCE * self.seconds(worker, model))

    def ready_in(self, worker: Worker, model: str) -> float:
        """Seconds until a model that the worker is to have is there: models are loaded one after the other, as they were wished for."""
        total = 0.0
        for name in worker.wanted:
            status = worker.statuses.get(name)
            if status is not None and status.residency is not Residency.RESIDENT:
                total += self.seconds(worker, name) * (1.0 - status.progress)
            if name == model:
                break
        return total

    def _note(self, kind: str, status: ModelStatus, load_s: float) -> None:
        before = self._seconds.get((kind, status.name), load_s)
        self._seconds[kind, status.name] = before + _NEWEST * (load_s - before)
        if status.size_bytes:
            pace = status.size_bytes / load_s
            self._pace[kind] = self._pace.get(kind, pace) + _NEWEST * (pace - self._pace.get(kind, pace))
