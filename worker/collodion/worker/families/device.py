"""Devices of torch: which one, in what precision, and how its time is taken.

The CUDA paths of this project were written without a GPU at hand; tests/gpu runs them where there is one.
"""

from dataclasses import dataclass, replace

import torch

from collodion.process.config import ConfigError
from collodion.worker.config import WorkerConfig
from collodion.worker.timing import HostSpan, Span

_STAGED_BYTES = 1 << 20  # a tensor that is brought to a GPU by way of pinned memory has at most so many


@dataclass(frozen=True)
class Device:
    """Where a model runs, and in what precision; `run_ahead`: see Pipeline."""

    place: torch.device
    dtype: torch.dtype = torch.float32

    def computing_in(self, dtype: torch.dtype) -> "Device":
        """The same for a model of this precision."""
        return replace(self, dtype=dtype)

    @property
    def run_ahead(self) -> int:
        """One batch is queued behind the one that runs, so that a GPU has no gap; a CPU has no queue."""
        return 1 if self.place.type == "cuda" else 0

    def span(self) -> Span:
        """Takes the time of one batch."""
        return CudaSpan(self.place) if self.place.type == "cuda" else HostSpan()

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the host, complete once a span is over that ends after this; on a CPU the tensor itself."""
        if self.place.type != "cuda":
            return tensor
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return pinned.copy_(tensor, non_blocking=True)

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """The way there; nothing waits for it, nor need `to_host` be complete: all is in order on one stream. On a CPU: itself.

        What a step needs is small and would be waited for if it came from memory that may be paged out, so it goes by way of memory that
        may not. A large tensor would take as much of that for good.
        """
        if self.place.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes <= _STAGED_BYTES:
            tensor = tensor if tensor.is_pinned() else tensor.pin_memory()
        return tensor.to(self.place, non_blocking=True)


class CudaSpan:
    """Two events on the current stream: nothing waits until `wait`."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def __enter__(self) -> "CudaSpan":
        self._began.record(self._stream)
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.record(self._stream)

    def wait(self) -> float:
        """See Span."""
        self._ended.synchronize()
        return float(self._began.elapsed_time(self._ended)) / 1000

    def gap_after(self, previous: "CudaSpan") -> float:
        """See Span."""
        return float(previous._ended.elapsed_time(self._began)) / 1000


def choose_device(config: WorkerConfig) -> Device:
    """What the settings say, made ready. Raises ConfigError if there is no such device."""
    name = config.device
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not auto, cpu or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is not auto, cpu or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {name} is not there; torch {torch.__version__} sees {torch.cuda.device_count()} GPUs"
        )
    _set_up(chosen, config)
    return Device(chosen)


def _set_up(device: torch.device, config: WorkerConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = config.reproducible
