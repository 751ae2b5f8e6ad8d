"""What frontends are told of models: which there are, and where each is, taken over all workers."""

from collections.abc import Iterable, Mapping, Sequence

from collodion.scheduler.config import SchedulerConfig
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.residency import ResidencyRule
from collodion.wire.jobs import AdapterInfo, ModelStatus, Optimization, Residency
from collodion.wire.to_frontend import Catalogue

_BEST_FIRST = (Residency.RESIDENT, Residency.LOADING, Residency.ON_DISK, Residency.FAILED)


def catalogue(config: SchedulerConfig, fleet: Fleet, residency: ResidencyRule) -> Catalogue:
    """All of it."""
    models = fleet.models()
    names = {name: None for worker in fleet.workers.values() for name in worker.statuses}
    statuses = {name: status_of(name, fleet, residency) for name in names}
    default = config.default_model or _default([info.name for info, _ in models], statuses, fleet)
    adapters = _adapters(fleet)
    return Catalogue(models, config.tier_infos(), default, config.default_tier, tuple(statuses.values()), adapters)


def status_of(model: str, fleet: Fleet, residency: ResidencyRule) -> ModelStatus:
    """Where the model is: resident if one worker has it, else loading, else on disk, else failed."""
    workers = [worker for worker in fleet.workers.values() if model in worker.statuses]
    said = [worker.statuses[model] for worker in workers]
    residencies = {_residency(worker, model) for worker in workers}
    best = next((one for one in _BEST_FIRST if one in residencies), Residency.ON_DISK)
    reason = residency.placement.fault(model) if best in (Residency.ON_DISK, Residency.FAILED) else ""
    return ModelStatus(
        name=model,
        residency=Residency.FAILED if reason else best,
        size_bytes=max((status.size_bytes for status in said), default=0),
        progress=max((status.progress for status in said), default=0.0) if best is Residency.LOADING else 0.0,
        reason=reason,
        pinned=residency.is_pinned(model),
        load_s=_least(residency.loads.known_s(worker, model) for worker in workers),
        optimizations=_optimizations(workers, model),
    )


def _default(names: Sequence[str], statuses: Mapping[str, ModelStatus], fleet: Fleet) -> str:
    """The first that can be used, those before others that the settings of a worker keep in memory; empty if there is no model."""
    usable = [name for name in names if name in statuses and statuses[name].residency is not Residency.FAILED]
    kept = {name for worker in fleet.workers.values() for name, status in worker.statuses.items() if status.pinned}
    return next((name for name in usable if name in kept), next(iter((*usable, *names)), ""))


def _residency(worker: Worker, model: str) -> Residency:
    said = worker.statuses[model].residency
    waits = model in worker.wanted and said in (Residency.ON_DISK, Residency.FAILED)
    return Residency.LOADING if waits else said


def _optimizations(workers: Iterable[Worker], model: str) -> tuple[Optimization, ...]:
    """Those of the first worker by name that has it in memory, so that two that differ are not told of in turn."""
    first = min(
        (worker for worker in workers if worker.where(model) is Residency.RESIDENT),
        key=lambda worker: (worker.name, worker.incarnation),
        default=None,
    )
    return first.statuses[model].optimizations if first is not None else ()


def _adapters(fleet: Fleet) -> tuple[AdapterInfo, ...]:
    """Those of all workers, each once."""
    adapters: dict[str, AdapterInfo] = {}
    for worker in fleet.workers.values():
        for adapter in worker.adapters:
            adapters.setdefault(adapter.name, adapter)
    return tuple(adapters.values())


def _least(seconds: Iterable[float | None]) -> float | None:
    return min((one for one in seconds if one is not None), default=None)
