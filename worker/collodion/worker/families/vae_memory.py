"""How a VAE decodes where memory is short: fewer latents at a time, and at last a latent in tiles.

1. The ways to decode a batch, from the fastest to the most frugal: all latents at once, half of them, … one by one, then each in
   diffusers' tiles, then in the smallest ones. What is decoded one by one is the same but for rounding; what is cut into tiles is not.
2. What a way takes is counted beforehand, by a run of the same decoder on shapes without numbers (`working_bytes`). The first way is taken
   for which there is room.
3. Where memory ends all the same, the next way is tried at once; and pictures of that size are counted as so much greater from then on
   as it takes to foresee this.
4. None of this is silent: every batch that is not decoded at once is counted, every new way is logged.
5. A reproducible worker's pictures may not depend on what is free: there `auto` means `whole`.
"""

import logging
import math
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from collodion.wire.jobs import Optimization
from collodion.worker.families.architecture import pad
from collodion.worker.families.tiles import Tiling
from collodion.worker.families.vae import Vae
from collodion.worker.memory_errors import memory_errors
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.wishes import VaeMemory

_log = logging.getLogger(__name__)

_SPARE = 1.35  # of what is counted: within layers, on a CPU, 1.25 to 1.30 of it is taken; and memory is in pieces
_PIXEL_BYTES = 3 * 4 * 4  # of a picture while it becomes one of 8 bits: three channels, four tensors of float32
_COUNTED_SIDE = 64  # latent pixels on which memory is counted: padding weighs no more than in a real latent
_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


class Way(NamedTuple):
    """latents: decoded at a time. tiling: of each of them, None if it is not cut."""

    latents: int
    tiling: Tiling | None = None

    def __str__(self) -> str:
        """For the log."""
        tiles = "" if self.tiling is None else f", in tiles of {self.tiling.size}x{self.tiling.size} latent pixels"
        return f"{self.latents} at a time{tiles}"


class FrugalVae:
    """Decodes with a Vae in what memory there is; device thread.

    free: bytes of the device's memory that could be had now. rows: latents that a call is filled up to, of a reproducible worker.
    squeezed: told "sliced" or "tiled" of each batch that `auto` does not decode at once. Raises Unsuitable.
    """

    def __init__(
        self, vae: Vae, wish: VaeMemory, rows: int, free: Callable[[], int], squeezed: Callable[[str], None]
    ) -> None:
        if wish is VaeMemory.TILED and not vae.tilings:
            raise Unsuitable("vae=tiled: diffusers cuts no tiles for this model's VAE")
        self._vae = vae
        self._wish = VaeMemory.WHOLE if rows and wish is VaeMemory.AUTO else wish
        self._rows = rows
        self._free = free
        self._squeezed = squeezed
        self._bytes = working_bytes(vae)
        self._larger: dict[tuple[int, int], float] = {}  # than counted, by size
        self._logged: dict[tuple[int, int], Way] = {}

    @property
    def optimization(self) -> Optimization:
        """What is in force, for `describe`."""
        detail = f"{self._bytes * self._vae.factor**-2 / 1024:.1f} KiB a pixel while it decodes"
        if self._wish is VaeMemory.TILED:
            size = self._vae.tilings[0].size * self._vae.factor
            detail += f"; pictures beyond {size}x{size} are cut into tiles of that size"
        return Optimization("vae", str(self._wish), detail)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents: float32 (N, C, H, W), normalised. Returns (N, 3, H, W) around -1..1. Raises MemoryError."""
        ways = self._ways(len(latents), *latents.shape[2:])
        while True:
            free = self._free() if len(ways) > 1 else 0
            way = self._choose(ways, latents, free)
            try:
                with memory_errors():
                    return self._decoded(latents, way)
            except MemoryError:
                ways = ways[ways.index(way) + 1 :]
                if not ways:
                    raise
            # Not in the handler: its traceback holds all that the decoder had allocated.
            self._note_shortage(latents, way, free)

    def in_pieces(self, latents: torch.Tensor) -> Iterator[torch.Tensor | None]:
        """The pictures of these latents one by one, (1, 3, H, W) each, and None wherever the device may be given to somebody else
        before the next picture is done. latents: as for `decode`. Raises MemoryError.
        """
        for latent in torch.split(latents, 1):
            yield (yield from self._one_in_pieces(latent))

    def expected_bytes(self, way: Way, height: int, width: int) -> int:
        """Of a call that decodes latents of this size so."""
        if way.tiling is not None:
            height, width = min(height, way.tiling.size), min(width, way.tiling.size)
        return int(self._bytes * way.latents * height * width)

    def _ways(self, count: int, height: int, width: int) -> list[Way]:
        tilings = [tiling for tiling in self._vae.tilings if tiling.cuts(height, width)]
        match self._wish:
            case VaeMemory.WHOLE:
                return [Way(count)]
            case VaeMemory.SLICED:
                return [Way(1)]
            case VaeMemory.TILED:
                return [Way(1, tiling) for tiling in self._vae.tilings[:1] if tiling in tilings] or [Way(1)]
        halves = dict.fromkeys(-(-count // 2**halved) for halved in range(math.ceil(math.log2(count)) + 1))
        return [*map(Way, halves), *(Way(1, tiling) for tiling in tilings)]

    def _choose(self, ways: list[Way], latents: torch.Tensor, free: int) -> Way:
        """The first for which there is room, or the most frugal."""
        if self._wish is not VaeMemory.AUTO:
            return ways[0]
        count, _, height, width = latents.shape
        factor = _SPARE * self._larger.get((height, width), 1.0)
        room = free - count * height * width * self._vae.factor**2 * _PIXEL_BYTES
        fitting = (way for way in ways if factor * self.expected_bytes(way, height, width) <= room)
        way = next(fitting, ways[-1])
        self._tell(way, count, (height, width))
        return way

    def _tell(self, way: Way, count: int, size: tuple[int, int]) -> None:
        whole = way.latents == count and way.tiling is None
        if not whole:
            self._squeezed("sliced" if way.tiling is None else "tiled")
        if not whole and self._logged.get(size) != way:
            self._logged[size] = way
            _log.warning(
                "memory is short: latents are decoded %s", way, extra={"latent": f"{size[1]}x{size[0]}", "batch": count}
            )

    def _note_shortage(self, latents: torch.Tensor, way: Way, free: int) -> None:
        size = latents.shape[2], latents.shape[3]
        foreseen = _SPARE * self.expected_bytes(way, *size)
        self._larger[size] = max(self._larger.get(size, 1.0), 1.01 * free / foreseen)

    def _one_in_pieces(self, latent: torch.Tensor) -> Generator[None, None, torch.Tensor]:
        """Returns the picture. What is broken off because memory ends begins anew, the next way."""
        ways = self._ways(1, *latent.shape[2:])
        while True:
            free = self._free() if len(ways) > 1 else 0
            way = self._choose(ways, latent, free)
            try:
                with memory_errors():
                    if way.tiling is None:
                        return self._vae.decode(latent)
                    return (yield from self._in_rows(latent, way.tiling))
            except MemoryError:
                ways = ways[ways.index(way) + 1 :]
                if not ways:
                    raise
            self._note_shortage(latent, way, free)

    def _in_rows(self, latent: torch.Tensor, tiling: Tiling) -> Generator[None, None, torch.Tensor]:
        rows: list[torch.Tensor] = []
        for row in self._vae.decode_in_tiles(latent, tiling):
            if rows:
                yield None
            rows.append(row)
        return torch.cat(rows, dim=2)

    def _decoded(self, latents: torch.Tensor, way: Way) -> torch.Tensor:
        if way == Way(len(latents)):
            return self._vae.decode(pad(latents, self._rows))[: len(latents)]
        return torch.cat([self._one(part, way) for part in torch.split(latents, way.latents)])

    def _one(self, latents: torch.Tensor, way: Way) -> torch.Tensor:
        if way.tiling is None:
            return self._vae.decode(latents)
        return torch.cat(list(self._vae.decode_in_tiles(latents, way.tiling)), dim=2)


def working_bytes(vae: Vae) -> float:
    """The most memory that is in use at once while a VAE decodes, without its weights: bytes for each latent pixel.

    Counted on the decoder itself, without weights and without numbers: every tensor that a layer makes is as large as the latent is, so
    that one size says it for all. Attention is taken to be a fused kernel, which keeps no matrix of scores; what a layer takes within
    itself is not in it.
    """
    shapes = vae.without_weights()
    latent = torch.empty(1, shapes.channels, _COUNTED_SIDE, _COUNTED_SIDE, device="meta", dtype=vae.dtype)
    with torch.no_grad(), _FusedAttention(), _Allocations() as allocations:
        shapes.decode(latent)
    return float(allocations.peak / _COUNTED_SIDE**2)


def free_bytes(place: torch.device) -> int:
    """Memory of the device that tensors could have now."""
    if place.type == "cuda":
        free, _ = torch.cuda.mem_get_info(place)
        return free + torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return min(_numbers_in(_MEMINFO).get("MemAvailable:", 1 << 52) << 10, _left_to_the_container())


def _left_to_the_container() -> int:
    """What its limit leaves it, if it has one: beyond that the process is killed. Pages of files would make room."""
    limit = _file_text(_CONTAINER / "memory.max")
    if not limit.isdigit():
        return 1 << 62
    taken = int(_file_text(_CONTAINER / "memory.current") or 0)
    return max(0, int(limit) - taken + _numbers_in(_CONTAINER / "memory.stat").get("inactive_file", 0))


def _numbers_in(file: Path) -> dict[str, int]:
    """Of a file that has a name and a number in each line; none if there is no such file."""
    lines = (line.split() for line in _file_text(file).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _file_text(file: Path) -> str:
    return file.read_text().strip() if file.is_file() else ""


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else kwargs["query"])
        return func(*args, **(kwargs or {}))


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what tensors that are made within it take, while they live. peak: the most at once, bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._bytes = 0
        self._seen = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = True
        self._bytes += storage.nbytes()
        self.peak = max(self.peak, self._bytes)
        weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, nbytes: int) -> None:
        self._bytes -= nbytes
