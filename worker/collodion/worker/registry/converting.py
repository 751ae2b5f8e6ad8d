"""`python -m collodion.worker.registry.converting IN_FD OUT_FD`: a pickled checkpoint becomes safetensors, in a process of its own.

A pickle is a program. This one is read by torch's weights-only unpickler, which runs none of it but the making of tensors and containers;
whatever else it names is refused by that name. In case the unpickler can be deceived all the same, the process has nothing to give: it
gets two open files, loses the rest (`collodion.worker.registry.confining`), and ends with its parent (`collodion convert`).

Says one JSON object a line: {"event": "confined", "network": bool, "files": bool}, {"event": "progress", "share": 0..1}, and at the end
{"event": "done", "tensors": n, "bytes": n, "dropped": [names]}. What is wrong is a sentence on standard error, with exit code 2.
"""

import contextlib
import json
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from collodion.worker.registry import confining

_SPARE_MEMORY = 2 << 30  # beside the checkpoint itself, once as it is read and once as it is written
_LEAST_CPU_S = 120
_BYTES_PER_CPU_S = 20_000_000
_GROWTH = 4  # how much larger than the checkpoint the result may be: storages may be named by more than one tensor
_SMALL = 64 << 20
_CHUNK = 32 << 20
_LISTED = 20
_LEAST_PROGRESS = 0.005
_WANTED = re.compile(r"(?:GLOBAL|Unsupported class) ([\w.]+)")
_WHY = re.compile(r"WeightsUnpickler error: (.{1,200})")

Say = Callable[[str, Mapping[str, Any]], None]
Tensors = dict[str, Any]


class Inert:
    """Stands for what old checkpoints name beside their tensors, so that they can be read without it. It is nothing and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:
        return id(self)


INERT = (
    "_codecs.encode",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning_fabric.utilities.data.AttributeDict",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.utilities.data.AttributeDict",
    "torch.nn.modules.container.ParameterDict",
)
"""What is read as Inert."""


class Refused(Exception):
    """A sentence for the user."""


def main(in_fd: int, out_fd: int) -> int:
    """The exit code."""
    no_network = confining.leave_network()
    say = _Speaker()
    with open(in_fd, "rb") as source, open(out_fd, "wb", buffering=0) as target:
        try:
            convert(source, target, say, lambda size: _confine(size, no_network, say))
        except Refused as refused:
            print(refused, file=sys.stderr)
            return 2
    return 0


def convert(source: BinaryIO, target: BinaryIO, say: Say, confine: Callable[[int], None]) -> None:
    """Reads one open file and writes the other. confine: called once, with the size of the source, before anything of it is read.

    Raises:
        Refused: it is none, wants code, or is larger than it may be.
    """
    size = os.fstat(source.fileno()).st_size
    _warm_up()
    confine(size)
    with _in_words(size):
        tensors, dropped = tensors_of(_unpickled(_Counting(source, size, say)))
        written = write(tensors, target, max(_GROWTH * size, _SMALL), say)
    say("done", {"tensors": len(tensors), "bytes": written, "dropped": dropped[:_LISTED]})


def tensors_of(loaded: Any) -> tuple[Tensors, list[str]]:
    """The tensors by name of what was unpickled, and the names of what is not taken along. Raises Refused."""
    import torch

    if isinstance(loaded, dict) and "string_to_param" in loaded:
        return _embedding(loaded["string_to_param"])
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise Refused(f"it holds a {type(loaded).__name__} and no tensors by name")
    tensors = {name: each for name, each in loaded.items() if isinstance(name, str) and isinstance(each, torch.Tensor)}
    if not tensors:
        raise Refused("it holds no tensors by name")
    odd = next((name for name, each in tensors.items() if each.layout is not torch.strided or each.is_quantized), None)
    if odd is not None:
        raise Refused(f"its tensor {odd[:200]!r} is sparse or quantized, which safetensors does not have")
    return tensors, [str(name)[:200] for name in loaded if name not in tensors]


def write(tensors: Tensors, target: BinaryIO, most_bytes: int, say: Say) -> int:
    """Writes safetensors; how many bytes. Raises Refused."""
    from collodion.worker.registry.reading import DTYPES

    names = {dtype: name for name, dtype in DTYPES.items()}
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so every number is aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in ordered:
        tensor = tensors[name]
        if tensor.dtype not in names:
            raise Refused(f"its tensor {name[:200]!r} is of {tensor.dtype}, which no model is stored in")
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    if place > most_bytes:
        raise Refused(f"it claims {place} bytes of tensors, many times what it has")
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    target.write(len(raw).to_bytes(8, "little") + raw)
    _write_all(tensors, ordered, target, place, say)
    return 8 + len(raw) + place


def _write_all(tensors: Tensors, ordered: list[str], target: BinaryIO, total: int, say: Say) -> None:
    import torch

    done = 0
    for name in ordered:
        whole = memoryview(tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        while len(whole):
            written = target.write(whole[:_CHUNK])
            whole, done = whole[written:], done + written
            say("progress", {"share": 0.5 + 0.5 * done / max(1, total)})


def _unpickled(source: Any) -> Any:
    import torch

    inert = torch.serialization.safe_globals([(Inert, name) for name in INERT])
    with inert, warnings.catch_warnings(action="ignore"):  # advice to developers on old protocols
        return torch.load(source, map_location="cpu", weights_only=True)


def _embedding(vectors: Any) -> tuple[Tensors, list[str]]:
    """A textual inversion, as A1111 reads it from safetensors."""
    import torch

    if isinstance(vectors, Inert):  # a ParameterDict
        vectors = vectors.state.get("_parameters") if isinstance(vectors.state, dict) else None
    found = list(vectors.values()) if isinstance(vectors, dict) else []
    if len(found) != 1 or not isinstance(found[0], torch.Tensor):
        raise Refused("it is an embedding of another layout than A1111's")
    return {"emb_params": found[0]}, []


class _Counting:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, size: int, say: Say) -> None:
        self._file = file
        self._size = max(1, size)
        self._say = say
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        """See io."""
        return self._told(self._file.read(size))

    def readline(self) -> bytes:
        """See io."""
        return self._told(self._file.readline())

    def seek(self, place: int, whence: int = 0) -> int:
        """See io."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """See io."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """See io."""
        got: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._count(got)
        return got

    def _told(self, got: bytes) -> bytes:
        self._count(len(got))
        return got

    def _count(self, got: int) -> None:
        self._read += got
        self._say("progress", {"share": min(0.5, 0.5 * self._read / self._size)})


def _warm_up() -> None:
    """Has everything imported that reading and writing import, while files can still be opened."""
    import io

    import torch

    torch.set_num_threads(1)
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"a": torch.zeros(2, dtype=torch.bfloat16)}, buffer, _use_new_zipfile_serialization=zipped)
        buffer.seek(0)
        write(_unpickled(buffer), io.BytesIO(), _SMALL, lambda *_: None)
    with contextlib.suppress(pickle.UnpicklingError):
        _unpickled(io.BytesIO(pickle.dumps(print)))


def _confine(size: int, no_network: bool, say: Say) -> None:
    confining.limit(
        memory_bytes=2 * size + _SPARE_MEMORY,
        cpu_s=_LEAST_CPU_S + size // _BYTES_PER_CPU_S,
        file_bytes=max(_GROWTH * size, _SMALL) + (1 << 20),
    )
    say("confined", {"network": no_network, "files": confining.leave_files()})


@contextlib.contextmanager
def _in_words(size: int) -> Iterator[None]:
    """Whatever torch says of a file that it does not read."""
    try:
        yield
    except Refused:
        raise
    except pickle.UnpicklingError as error:
        if wanted := _WANTED.search(str(error)):
            raise Refused(
                f"it wants {wanted[1]} when it is opened, which no tensor needs: nothing of it was run"
            ) from error
        why = (
            found[1] if (found := _WHY.search(str(error))) else "what it begins with is unknown"
        )  # torch's own advice is bad
        raise Refused(f"it cannot be read without running code, or is damaged: {why}") from error
    except MemoryError as error:
        raise Refused(f"it claims more memory than a file of {size} bytes can need, or there is too little") from error
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, ImportError) as error:
        raise Refused(f"it is damaged, or no checkpoint of torch: {_first(error)}") from error


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


class _Speaker:
    """Writes events to standard output; progress only where it shows."""

    def __init__(self) -> None:
        self._share = -1.0

    def __call__(self, event: str, said: Mapping[str, Any]) -> None:
        if event == "progress":
            if said["share"] - self._share < _LEAST_PROGRESS:
                return
            self._share = said["share"]
        print(json.dumps({"event": event, **said}), flush=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
