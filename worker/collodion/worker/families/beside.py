"""Decoding beside the steps: on a CUDA stream of its own, piece by piece, no faster than a throttle lets it.

1. A piece is a latent, or a row of tiles. At a boundary between two steps the next one is issued, once the last one is done and the
   throttle says that it may begin. Who is in a hurry has all the rest issued at once.
2. What a piece costs the steps is learned from the time that they took: those during which a piece ran, by the device's own clock, and
   those during which none did. Steps are told of when they are done, two behind the newest, so that nothing waits for them.
3. What goes from one stream to the other: the latents, whose memory is not given to others before the pieces that read it are done
   (`record_stream`); pictures go to the host on the stream that made them. All else that a piece takes stays on its stream.
4. Priority: CUDA has none below that of the stream that steps run on, so a piece that runs has the device as much as they have. What
   bounds it is the throttle.

The CUDA half of this file was written without a GPU at hand; tests/gpu runs it where there is one.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Protocol

import torch

from collodion.wire.jobs import Optimization
from collodion.worker.families.device import Device
from collodion.worker.families.throttle import Throttle
from collodion.worker.memory_errors import memory_errors
from collodion.worker.pipeline import Decoded, Picture
from collodion.worker.timing import Span

Pieces = Callable[[torch.Tensor], Iterator[torch.Tensor | None]]
"""See FrugalVae.in_pieces."""

_BEHIND = 2  # steps that may be under way when another one is issued


class Lane(Protocol):
    """Where pieces run."""

    def issuing(self, latents: Sequence[torch.Tensor]) -> AbstractContextManager[object]:
        """What is issued within runs here, after all that the caller's stream was given before. latents: that it reads."""

    def idle(self) -> bool:
        """Whether all that was issued is done."""

    def span(self) -> Span:
        """Takes the time of what is issued within."""


class SideStream:
    """A Lane: a CUDA stream."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device.place)  # type: ignore[no-untyped-call]
        self._issued = torch.cuda.Event()  # type: ignore[no-untyped-call]

    @contextmanager
    def issuing(self, latents: Sequence[torch.Tensor]) -> Iterator[None]:
        """See Lane."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device.place))
        for latent in latents:
            latent.record_stream(self._stream)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:  # whatever was issued before something raised runs too
            self._issued.record(self._stream)

    def idle(self) -> bool:
        """See Lane."""
        return bool(self._issued.query())  # type: ignore[no-untyped-call]

    def span(self) -> Span:
        """See Lane. To be made within `issuing`."""
        return self._device.span()


class PieceClock:
    """Tells a throttle of steps that are done, and whether a piece ran beside them."""

    def __init__(self, throttle: Throttle, idle: Callable[[], bool]) -> None:
        self._throttle = throttle
        self._idle = idle
        self._untold: deque[tuple[Hashable, Span]] = deque()
        self._pieces: list[Span] = []  # that steps may have run beside
        self._steps_beside: int | None = (
            None  # of the untold ones, those issued before the pieces were known to be done
        )

    def begin(self, piece: Span) -> None:
        """A piece was issued."""
        self._throttle.begin()
        self._pieces.append(piece)
        self._steps_beside = None

    def stepped(self, key: Hashable, span: Span) -> None:
        """A step was issued."""
        self._untold.append((key, span))
        if self._pieces and self._steps_beside is None and self._idle():
            self._steps_beside = len(self._untold)
        while len(self._untold) > _BEHIND and (not self._pieces or self._steps_beside is not None):
            self._tell(*self._untold.popleft())

    def _tell(self, key: Hashable, step: Span) -> None:
        seconds = step.wait()
        beside = any(step.gap_after(piece) < 0 and piece.gap_after(step) < 0 for piece in self._pieces)
        self._throttle.stepped(key, seconds, beside)
        if self._steps_beside is not None:
            self._steps_beside -= 1
            if not self._steps_beside:
                self._throttle.end()
                self._pieces, self._steps_beside = [], None


class BesideDecoder:
    """Of one model; device thread. pixels: from a decoded latent to (1, H, W, 3) of uint8. bound: see Throttle."""

    def __init__(
        self,
        pieces: Pieces,
        pixels: Callable[[torch.Tensor], torch.Tensor],
        device: Device,
        lane: Lane,
        bound: float,
    ) -> None:
        self._pieces = pieces
        self._pixels = pixels
        self._device = device
        self._lane = lane
        self._throttle = Throttle(bound)
        self._clock = PieceClock(self._throttle, lane.idle)

    @property
    def optimization(self) -> Optimization:
        """What is in force, for `describe`."""
        slowdown = self._throttle.slowdown
        seen = "" if slowdown is None else f"; beside a piece they take {slowdown:.0%} longer"
        return Optimization(
            "decode", "beside", f"steps take {self._throttle.bound:.0%} longer at most, on the average{seen}"
        )

    def stepped(self, key: Hashable, span: Span) -> None:
        """A step of this model was issued; its span is over once the device is done with it. key: see Throttle."""
        self._clock.stepped(key, span)

    def decode(self, latents: Sequence[torch.Tensor]) -> Decoded:
        """Issues nothing: see `Decoded.advance`. latents: float32 (C, H, W) each, of one size."""
        work = _Work(list(latents), self._pieces, self._pixels, self._device.to_host)

        def advance(hurry: bool) -> bool:
            return self._advance(work, hurry)

        return Decoded(work, work.pictures, advance)

    def _advance(self, work: "_Work", hurry: bool) -> bool:
        if work.left and (hurry or (self._lane.idle() and self._throttle.may_begin)):
            with self._lane.issuing(work.latents), memory_errors():
                piece = self._lane.span()
                self._clock.begin(piece)
                work.issue(piece, whole=hurry)
        return not work.left and self._lane.idle()


class _Work:
    """A batch that is decoded, and the Span of it: from its first piece to its last."""

    def __init__(
        self,
        latents: list[torch.Tensor],
        pieces: Pieces,
        pixels: Callable[[torch.Tensor], torch.Tensor],
        to_host: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.latents = latents
        self.left = len(latents)
        self._cut = pieces
        self._pieces: Iterator[torch.Tensor | None] | None = None
        self._pixels = pixels
        self._to_host = to_host
        self._done: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._spans: list[Span] = []

    @torch.inference_mode()
    def issue(self, piece: Span, whole: bool) -> None:
        """Issues the next piece, or all of them. piece: its span."""
        self._spans.append(piece)
        with piece:
            if self._pieces is None:
                self._pieces = self._cut(torch.stack(self.latents))
            while self.left:
                decoded = next(self._pieces)
                if decoded is not None:
                    lost = ~decoded.float().sum(dim=(1, 2, 3)).isfinite()
                    self._done.append((self._to_host(lost), self._to_host(self._pixels(decoded))))
                    self.left -= 1
                if not whole:
                    return

    def pictures(self) -> list[Picture | None]:
        """See Decoded."""
        return [None if bool(lost) else pixels[0].numpy() for lost, pixels in self._done]

    def __enter__(self) -> "_Work":
        """See Span: it is entered piece by piece."""
        return self

    def __exit__(self, *exc: object) -> None:
        """See Span."""

    def wait(self) -> float:
        """See Span. The pauses between its pieces count: so long it took until the pictures were there."""
        took = sum(span.wait() for span in self._spans)  # first: nobody knows of a gap before both are done
        return took + sum(after.gap_after(before) for before, after in pairwise(self._spans))

    def gap_after(self, previous: Span) -> float:
        """See Span."""
        return self._spans[0].gap_after(previous)
