"""What the settings ask of a model's speed: `optimize`, a list of words.

    compile=regional            for every model
    sdxl:attention=xformers     for one, before what is said for every model

Every key has one meaning and a value `auto`, which is the default: `collodion.worker.optimize.plan` says what it becomes on which device.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from collodion.process.config import ConfigError

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


class Precision(StrEnum):
    """What a model computes in. Sampler arithmetic is float32 whatever is chosen."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Switch(StrEnum):
    """Whether something is done."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Attention(StrEnum):
    """The kernels of attention: torch's own choice, one of its own, or a package's. `auto` is torch's own choice."""

    AUTO = "auto"
    SDPA = "sdpa"
    SDPA_FLASH = "sdpa-flash"
    SDPA_EFFICIENT = "sdpa-efficient"
    SDPA_CUDNN = "sdpa-cudnn"
    SDPA_MATH = "sdpa-math"
    XFORMERS = "xformers"
    FLASH = "flash"
    FLASH_3 = "flash-3"
    SAGE = "sage"


class MemoryFormat(StrEnum):
    """How convolutions' tensors lie in memory."""

    AUTO = "auto"
    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels-last"


class Compilation(StrEnum):
    """What torch.compile compiles: the blocks that a denoiser repeats, or nothing."""

    AUTO = "auto"
    OFF = "off"
    REGIONAL = "regional"


class Quantization(StrEnum):
    """What the denoiser's weights are kept in. Activations stay in the model's precision."""

    AUTO = "auto"
    OFF = "off"
    INT8 = "int8"
    FP8 = "fp8"


class VaeMemory(StrEnum):
    """How a VAE decodes: all latents at once, one by one, or in tiles; `auto` goes down that list where memory does not suffice."""

    AUTO = "auto"
    WHOLE = "whole"
    SLICED = "sliced"
    TILED = "tiled"


class Decoding(StrEnum):
    """When a VAE decodes: between two steps, or beside them on a stream of its own."""

    AUTO = "auto"
    BETWEEN = "between"
    BESIDE = "beside"


@dataclass(frozen=True)
class Wish:
    """What is asked of one model. sizes: "WIDTHxHEIGHT+…" in pixels, made ready when it is loaded; its native size if empty."""

    dtype: Precision = Precision.AUTO
    vae_dtype: Precision = Precision.AUTO
    attention: Attention = Attention.AUTO
    memory_format: MemoryFormat = MemoryFormat.AUTO
    fuse_qkv: Switch = Switch.AUTO
    quantize: Quantization = Quantization.AUTO
    deepspeed: Switch = Switch.AUTO
    compile: Compilation = Compilation.AUTO
    cuda_graphs: Switch = Switch.AUTO
    step_cache: Switch = Switch.AUTO
    vae: VaeMemory = VaeMemory.AUTO
    decode: Decoding = Decoding.AUTO
    sizes: str = ""

    @property
    def ready_sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes, (width, height) in pixels."""
        return tuple((int(match[1]), int(match[2])) for match in _SIZE.finditer(self.sizes))


def wish_for(words: Iterable[str], model: str) -> Wish:
    """What these words ask of this model. Raises ConfigError."""
    read = [_read(word) for word in words]
    general = {key: value for name, key, value in read if not name}
    own = {key: value for name, key, value in read if name == model}
    return _wish({**general, **own})


def check(words: Iterable[str], models: Collection[str] | None = None) -> None:
    """Raises ConfigError if one of these words cannot be read, or names none of these models, where they are all there will be."""
    for word in words:
        name, key, value = _read(word)
        _wish({key: value})
        if name and models is not None and name not in models:
            raise ConfigError(f"optimize: {word.strip()!r} is for none of the models, which are {', '.join(models)}")


def _read(word: str) -> tuple[str, str, str]:
    """Model (empty: all), key, value."""
    named, equals, value = word.strip().rpartition("=")
    name, _, key = named.rpartition(":")
    if not equals:
        raise ConfigError(f"optimize: {word!r} is neither KEY=VALUE nor MODEL:KEY=VALUE")
    return name, key, value


def _wish(said: Mapping[str, str]) -> Wish:
    kinds: dict[str, Any] = {one.name: type(one.default) for one in fields(Wish)}
    if unknown := said.keys() - kinds.keys():
        raise ConfigError(f"optimize: there is no {min(unknown)!r}; there are {', '.join(kinds)}")
    values: dict[str, str] = {}
    for key, value in said.items():
        kind = kinds[key]
        try:
            values[key] = kind(value)
        except ValueError as error:
            raise ConfigError(f"optimize: {key} is {value!r}, not one of {', '.join(kind)}") from error
    sizes = values.get("sizes", "")
    if sizes and not all(_SIZE.fullmatch(size) for size in sizes.split("+")):
        raise ConfigError(f"optimize: sizes is {sizes!r}, not WIDTHxHEIGHT+…")
    return Wish(**values)  # type: ignore[arg-type]
