"""From a source to the parts of a diffusers pipeline, on a device.

Called on any thread but the device's: it reads, builds and checks on the CPU, part by part, and moves each part to its device when
it is whole. Nothing of the process is changed for it (`collodion.worker.registry.modules`), so steps go on meanwhile.
The CUDA path was written without a GPU at hand.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import torch

from collodion.worker.memory_errors import memory_errors
from collodion.worker.registry.configurations import configs_of
from collodion.worker.registry.errors import ModelUnusable
from collodion.worker.registry.modules import (
    FOREIGN,
    assign,
    build,
    class_of,
    fill,
    first_line,
    kept_in_float32,
)
from collodion.worker.registry.reading import Wish, read_tensors
from collodion.worker.registry.sharing import SharedWeights
from collodion.worker.registry.single_file import converted
from collodion.worker.registry.sources import ModelSource, Part
from collodion.worker.registry.vocabulary import clip_tokenizer

_OF_NONE: Mapping[str, torch.dtype] = {}

Progress = Callable[[float], None]
"""Told how much is loaded, 0 to 1, always growing; called on the loading thread."""


class ReadParts(Protocol):
    """`load_parts`, or what stands for it where weights come from elsewhere: benchmarks make random ones."""

    def __call__(
        self,
        source: ModelSource,
        dtype: torch.dtype,
        place: torch.device,
        shared: SharedWeights | None = None,
        progress: Progress = ...,
        dtypes: Mapping[str, torch.dtype] = ...,
    ) -> dict[str, Any]:
        """See load_parts."""


def load_parts(
    source: ModelSource,
    dtype: torch.dtype,
    place: torch.device,
    shared: SharedWeights | None = None,
    progress: Progress = lambda _: None,
    dtypes: Mapping[str, torch.dtype] = _OF_NONE,
) -> dict[str, Any]:
    """Every part of the pipeline by its name: modules in eval mode on `place`, tokenizers, scheduler.

    dtypes: of parts, by name, that are not to be of `dtype`.

    Raises:
        ModelUnusable: a file is missing, damaged, hostile or does not fit the rest. MemoryError: it does not fit the device.
    """
    return _Loader(source, dtype, place, shared or SharedWeights(), progress, dtypes).load()


class _Loader:
    """One model being loaded."""

    def __init__(
        self,
        source: ModelSource,
        dtype: torch.dtype,
        place: torch.device,
        shared: SharedWeights,
        progress: Progress,
        dtypes: Mapping[str, torch.dtype],
    ) -> None:
        self._source = source
        self._dtype = dtype
        self._dtypes = dtypes
        self._place = place
        self._shared = shared
        self._progress = progress
        self._configs = configs_of(source)
        self._total = max(1, sum(part.stored_bytes for part in source.used))
        self._done = 0

    def load(self) -> dict[str, Any]:
        """See load_parts."""
        parts = {part.name: self._part(part) for part in self._source.used}
        self._progress(1.0)
        return parts

    def _part(self, part: Part) -> Any:
        try:
            return self._module(part) if part.files else self._light(part)
        except ModelUnusable as error:
            reason = error.reason
            raise ModelUnusable(f"{self._source.path}: {reason}" if reason.startswith("its ") else reason) from error

    def _module(self, part: Part) -> Any:
        config = self._configs[part.name]
        dtype = self._dtypes.get(part.name, self._dtype)
        key = part.name, part.class_name, part.files, dtype, str(self._place), _canonical(config)
        module = self._shared.find(key)
        if module is not None:
            self._advance(part.stored_bytes)
            return module
        with memory_errors():
            module = _moved(self._read(part, config, dtype), self._place)
        self._shared.keep(key, module)
        return module

    def _read(self, part: Part, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
        module = build(part, config, dtype)
        kept = kept_in_float32(type(module), dtype)
        wish = Wish(dtype, part.within or ("",), kept)
        tensors = read_tensors(part.files, wish, self._advance)
        if part.within:
            assign(part, module, converted(part, module, tensors, config))
        else:
            fill(part, module, tensors, dtype)
        return module

    def _advance(self, done: int) -> None:
        self._done += done
        self._progress(min(1.0, self._done / self._total))

    def _light(self, part: Part) -> Any:
        """A tokenizer, a scheduler: what has no weights."""
        kind, config = class_of(part), self._configs[part.name]
        if issubclass(kind, torch.nn.Module):
            raise ModelUnusable(f"its {part.name} is missing: " + _MISSING)
        try:
            if hasattr(kind, "from_config"):
                return kind.from_config(dict(config))
            if part.folder is None:
                return clip_tokenizer(pad_token=config["pad_token"], model_max_length=config["model_max_length"])
            return kind.from_pretrained(part.folder, local_files_only=True, trust_remote_code=False)
        except FOREIGN as error:
            raise ModelUnusable(f"its {part.name} cannot be made: {first_line(error)}") from error


_MISSING = 'a file NAME.collodion.json beside it may say {"vae": NAME}, a VAE of the models directory'


def _canonical(config: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(config, order="deterministic")


def _moved(module: Any, place: torch.device) -> Any:
    """On its device, complete: on a GPU by a stream of its own, so that steps go on meanwhile."""
    if place.type != "cuda":
        return module.to(place)
    stream: Any = torch.cuda.Stream(place)  # type: ignore[no-untyped-call]
    steps = torch.cuda.default_stream(place)
    with torch.cuda.stream(stream):
        module.to(place)
    stream.synchronize()
    # Freed memory goes back to the stream that it was taken on; not before the steps that read it are over.
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.record_stream(steps)
    return module
