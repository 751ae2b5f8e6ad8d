"""A virtual worker: the wire protocol to the letter, and the rule of `Membership` carried out in jumps.

1. A round is what the rule says of one boundary: decode one batch, choose the window, encode one batch, step the window once; one after
   the other on one device. The newest membership is applied before a round, never within one; when idle, at once.
2. Rounds that would only step the same window again are one stretch, up to the boundary at which a latent is done. A membership that
   arrives within a stretch ends it at the next boundary.
3. Models come in and leave at a boundary too (`shelf`); latents of one that is not in memory are passed over.
4. It reports at changes alone: a membership applied, latents encoded, latents done, pictures stored. A report tells of all
   latents that are further than was told.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from itertools import accumulate

from collodion.wire.jobs import ModelInfo, Stage
from collodion.wire.to_scheduler import FromWorker, WorkerReport, WorkerState
from collodion.wire.to_worker import Membership, ResidencyWish, SchedulerBeat, ToWorker
from simulation.agenda import Action, Agenda
from simulation.holding import PAST_STEPS, Holding, VirtualJob, VirtualLatent
from simulation.instance import Device
from simulation.recorder import Recorder
from simulation.samples import Samples
from simulation.shelf import VirtualShelf
from simulation.truth import DECODE, ENCODE, STEP, STORE, Truth

Say = Callable[["VirtualWorker", FromWorker], None]


class VirtualWorker:
    """One worker. `store_s` is what storing a picture takes, beside the device."""

    def __init__(
        self,
        index: int,
        device: Device,
        models: tuple[ModelInfo, ...],
        truth: Truth,
        agenda: Agenda,
        recorder: Recorder,
        say: Say,
        store_s: float = 0.0,
    ) -> None:
        self.incarnation = f"worker-{index}"
        self.peer = self.incarnation.encode()
        self._index = index
        self._device = device
        self._models = models
        self._truth = truth
        self._agenda = agenda
        self._recorder = recorder
        self._say = say
        self._store_s = store_s
        self._samples = Samples(truth.exact)
        self._held = Holding()
        self._shelf = VirtualShelf(device, models, agenda, self._look_soon, self.beat)
        self._pending: deque[Membership] = deque(maxlen=16)
        self._applied_untold = False
        self._told: dict[VirtualLatent, tuple[Stage, int]] = {}
        self._finished: list[VirtualLatent] = []
        self._busy = False
        self._decoding: list[VirtualLatent] = []
        self._encoding: list[VirtualJob] = []
        self._window: list[VirtualLatent] = []
        self._ends: list[float] = []  # boundaries of the stretch, its start first; empty outside of one
        self._stretch = 0
        self._round_at = 0.0

    # ------------------------------------------------------------------ messages

    def hear(self, message: ToWorker) -> None:
        """A message arrives, now."""
        if isinstance(message, SchedulerBeat) or message.worker != self.incarnation:
            return  # a beat: the first membership says as much
        if isinstance(message, ResidencyWish):
            self._shelf.take(message)
            return
        newest = self._pending[-1] if self._pending else self._held
        if message.scheduler == newest.scheduler and message.number <= newest.number:
            return
        if message.after is None:
            self._pending.clear()
        self._pending.append(message)
        if not self._busy:
            self._round()
        elif self._ends:
            self._end_stretch_early()

    def _look_soon(self) -> None:
        """Models are to come in or to leave, at the next boundary."""
        if not self._busy:
            self._round()
        elif self._ends:
            self._end_stretch_early()

    def beat(self) -> None:
        """Says everything."""
        standing = self._standing()
        device = self._device
        state = WorkerState(
            incarnation=self.incarnation,
            name=device.name,
            device=device.kind,
            models=self._models,
            max_batch=device.max_batch,
            max_resident=device.max_resident,
            scheduler=self._held.scheduler,
            membership=self._held.number,
            latents=tuple(latent.report(done) for latent, done in standing),
            device_kind=device.kind,
            encode_batch=device.encode_batch,
            decode_batch=device.decode_batch,
            statuses=self._shelf.statuses(),
            model_bytes=device.model_bytes,
            wished=self._shelf.wish.number if self._shelf.wish is not None else 0,
        )
        self._told = {latent: (latent.stage, done) for latent, done in standing}
        self._say(self, state)

    def _report(self) -> None:
        told = self._told
        news = [(latent, done) for latent, done in self._standing() if told.get(latent) != (latent.stage, done)]
        if not news and not self._applied_untold:
            return
        self._applied_untold = False
        for latent, done in news:
            told[latent] = latent.stage, done
        self._say(
            self,
            WorkerReport(
                incarnation=self.incarnation,
                scheduler=self._held.scheduler,
                membership=self._held.number,
                latents=tuple(latent.report(done) for latent, done in news),
                lanes=self._samples.take(),
                missing=self._held.missing,
                age_s=self._agenda.now - self._last_boundary(),
            ),
        )

    def _standing(self) -> list[tuple[VirtualLatent, int]]:
        """Every latent, with its evaluations up to the last boundary."""
        under_way = self._boundaries_passed()
        within = set(self._window) if under_way else ()
        return [
            (latent, latent.evaluations + (under_way if latent in within else 0))
            for latent in self._held.latents.values()
        ]

    def _last_boundary(self) -> float:
        passed = self._boundaries_passed()
        return self._ends[passed] if passed else self._round_at

    # ------------------------------------------------------------------ a round

    def _round(self) -> None:
        self._round_at = self._agenda.now
        self._apply_newest()
        self._shelf.turn({latent.job.parameters.model for latent in self._held.latents.values()})
        self._decoding = self._due_for_decoding()
        self._window = self._chosen()
        self._encoding = self._due_for_encoding()
        self._report()
        self._busy = bool(self._decoding or self._window)
        if self._decoding:
            self._start(DECODE, self._decoding[0].job.key, len(self._decoding), self._decoding, self._decoded)
        else:
            self._encode()

    def _apply_newest(self) -> None:
        while self._pending and (self._held.reached(self._pending[0].after) or not (self._finished or self._chosen())):
            self._apply(self._pending.popleft())

    def _apply(self, membership: Membership) -> None:
        self._held.apply(membership)
        self._applied_untold = True
        self._finished = [latent for latent in self._finished if not latent.dropped]
        self._told = {latent: told for latent, told in self._told.items() if not latent.dropped}

    def _due_for_decoding(self) -> list[VirtualLatent]:
        if not self._finished:
            return []
        key = self._finished[0].job.key
        batch = [latent for latent in self._finished if latent.job.key == key][: self._device.decode_batch]
        self._finished = [latent for latent in self._finished if latent not in batch]
        return batch

    def _chosen(self) -> list[VirtualLatent]:
        window: list[VirtualLatent] = []
        most = self._device.max_batch
        for place, latent in enumerate(self._held.running):
            if latent.stage in PAST_STEPS or self._shelf.lacks(latent.job.parameters.model):
                continue
            if not window:
                most = min(most, self._held.caps[place]) if self._held.caps else most
            elif latent.job.key != window[0].job.key:
                continue
            window.append(latent)
            if len(window) >= most:
                break
        return window

    def _due_for_encoding(self) -> list[VirtualJob]:
        due = {latent.job: None for latent in self._window if not latent.job.encoded}
        return list(due)[: self._device.encode_batch]

    def _start(self, lane: str, key: str, batch: int, latents: list[VirtualLatent], then: Action) -> None:
        durations = self._truth.durations(lane, key, batch)
        self._samples.add(lane, key, batch, durations)
        start = self._agenda.now
        end = start + durations[0]
        self._recorder.note(self._index, lane, start, end, key, tuple(latent.id for latent in latents))
        self._agenda.at(end, then)

    def _decoded(self, _: None) -> None:
        pictures, self._decoding = self._decoding, []
        for latent in pictures:
            latent.decoded = True
        self._agenda.at(self._agenda.now + self._store_s, self._stored, pictures)
        self._encode()

    def _stored(self, pictures: list[VirtualLatent]) -> None:
        kept = [latent for latent in pictures if not latent.dropped]
        for latent in kept:
            latent.stage = Stage.DONE
            self._samples.add(STORE, latent.job.key, 1, (self._store_s,))
        if kept:
            self._report()

    def _encode(self) -> None:
        if self._encoding:
            latents = [latent for latent in self._window if latent.job in self._encoding]
            self._start(ENCODE, latents[0].job.key, len(self._encoding), latents, self._encoded)
        else:
            self._step()

    def _encoded(self, _: None) -> None:
        for job in self._encoding:
            job.encoded = True
        self._encoding = []
        for latent in self._held.running:
            if latent.stage is Stage.ENCODING and latent.job.encoded:
                latent.stage = Stage.DENOISING
        self._report()
        self._step()

    # ------------------------------------------------------------------ stretches of steps

    def _step(self) -> None:
        rows = [latent for latent in self._window if latent.job.encoded]
        if not rows:
            if self._busy:
                self._round()
            return
        alone = bool(self._pending) or bool(self._finished) or len(rows) < len(self._window)
        count = 1 if alone else min(latent.job.total - latent.evaluations for latent in rows)
        durations = self._truth.durations(STEP, rows[0].job.key, len(rows), count)
        self._window = rows
        self._ends = list(accumulate(durations, initial=self._agenda.now))
        self._stretch += 1
        self._agenda.at(self._ends[-1], self._stepped, (self._stretch, count))

    def _end_stretch_early(self) -> None:
        boundary = max(1, bisect_left(self._ends, self._agenda.now), self._boundaries_to_go())
        if boundary < len(self._ends) - 1:
            self._stretch += 1
            del self._ends[boundary + 1 :]
            self._agenda.at(self._ends[boundary], self._stepped, (self._stretch, boundary))

    def _boundaries_to_go(self) -> int:
        """How many of the stretch's boundaries pass before the pending membership may be applied."""
        after = self._pending[0].after if self._pending else None
        latent = self._held.latents.get(after[0]) if after else None
        return after[1] - latent.evaluations if after and latent in self._window and latent else 0

    def _stepped(self, what: tuple[int, int]) -> None:
        stretch, count = what
        if stretch != self._stretch:
            return
        rows, ends, self._ends = self._window, self._ends, []
        key = rows[0].job.key
        self._samples.add(STEP, key, len(rows), [ends[index + 1] - ends[index] for index in range(min(count, 4))])
        names = tuple(latent.id for latent in rows)
        self._recorder.note(self._index, STEP, ends[0], ends[-1], key, names, count)
        for latent in rows:
            latent.evaluations += count
            if latent.evaluations == latent.job.total and not latent.dropped:
                latent.stage = Stage.DECODING
                self._finished.append(latent)
        self._round()

    def _boundaries_passed(self) -> int:
        """Of the stretch that is under way, after its start."""
        return bisect_right(self._ends, self._agenda.now) - 1 if self._ends else 0
