"""What the scheduler is told, and when it was told last: everything every beat, what changed in between.

What counts as told is what the socket took; a report that it did not take is made again from the present.
"""

from collections.abc import Iterable

from collodion.wire.jobs import LatentId, Stage
from collodion.wire.to_scheduler import Lane, WorkerReport, WorkerState
from collodion.worker.config import WorkerConfig
from collodion.worker.holdings import Held
from collodion.worker.latent import Latent
from collodion.worker.outbox import Sample
from collodion.worker.residency import Residents, Standing

_Told = tuple[Stage, int]


class Reporter:
    """Makes states and reports from what is held. Link thread only."""

    def __init__(
        self, incarnation: str, config: WorkerConfig, device: str, device_kind: str, models: Residents
    ) -> None:
        self._incarnation = incarnation
        self._config = config
        self._device = device
        self._device_kind = device_kind
        self._models = models
        self._told: dict[LatentId, _Told] = {}
        self._told_of = self._missed_of = Held()
        self._standing = self._told_standing = Standing()

    @property
    def models_are_news(self) -> bool:
        """Whether models stand otherwise than was told."""
        return self._models.version != self._told_standing.version

    def state(self, held: Held) -> WorkerState:
        """Everything."""
        if self._standing.version != self._models.version:
            self._standing = self._models.standing()
        standing = self._standing
        return WorkerState(
            incarnation=self._incarnation,
            name=self._config.name,
            device=self._device,
            models=standing.models,
            max_batch=self._config.max_batch,
            max_resident=self._config.max_resident,
            scheduler=held.scheduler,
            membership=held.membership,
            latents=tuple(latent.report() for latent in held.latents),
            device_kind=self._device_kind,
            encode_batch=self._config.encode_batch,
            decode_batch=self._config.decode_batch,
            statuses=standing.statuses,
            adapters=standing.adapters,
            model_bytes=self._models.budget_bytes,
            # The number says nothing to another scheduler than the one that is served.
            wished=standing.wished if standing.scheduler == held.scheduler else 0,
        )

    def report(self, held: Held, samples: Iterable[Sample], age_s: float = 0.0) -> WorkerReport | None:
        """What changed since what was told last; None if nothing did. age_s: since the last boundary."""
        latents = tuple(latent.report() for latent in held.latents if self._is_news(latent))
        lanes = tuple(Lane(lane=s.lane, key=s.key, batch=s.batch, seconds=s.seconds) for s in samples if s.whole)
        told = held is self._told_of and (held is self._missed_of or not held.missing)
        if told and not latents and not lanes:
            return None
        return WorkerReport(
            incarnation=self._incarnation,
            scheduler=held.scheduler,
            membership=held.membership,
            latents=latents,
            lanes=lanes,
            missing=held.missing,
            age_s=age_s,
        )

    def told(self, held: Held, said: WorkerState | WorkerReport) -> None:
        """What was made from `held` is on its way. Only a report says what is missing."""
        if held is not self._told_of:
            self._told_of = held
            kept = {latent.id for latent in held.latents}
            self._told = {name: told for name, told in self._told.items() if name in kept}
        if isinstance(said, WorkerReport):
            self._missed_of = held
        else:
            self._told_standing = self._standing
        for report in said.latents:
            self._told[report.id] = (report.stage, report.evaluations)

    def _is_news(self, latent: Latent) -> bool:
        return self._told.get(latent.id) != (latent.stage, latent.evaluations)
