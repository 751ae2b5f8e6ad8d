"""What a models directory holds, as plain records: no weights, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from collodion.wire.jobs import AdapterKind
from collodion.worker.registry.errors import ModelUnusable


class SourceKind(StrEnum):
    """How a model lies on the disk."""

    FOLDER = "folder"
    SINGLE_FILE = "single_file"


class WeightFile(NamedTuple):
    """A file as it was when it was looked at. `path` is the real one, whatever links lead to it."""

    path: Path
    size_bytes: int
    modified_ns: int

    @classmethod
    def at(cls, path: Path) -> "WeightFile":
        """Raises ModelUnusable."""
        try:
            real = path.resolve(strict=True)
            said = real.stat()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise ModelUnusable(f"{path} cannot be read: {error}") from error
        return cls(real, said.st_size, said.st_mtime_ns)


@dataclass(frozen=True)
class Part:
    """A component of a pipeline, by the name that the pipeline has for it.

    library: diffusers or transformers. folder: where its configuration lies, None for a single file's. files: its weights, none for
    tokenizers and schedulers. numbers, stored_bytes: how many numbers its weights are, and what they take as they are stored.
    within: how the names of its tensors begin in a file of CompVis' layout; empty if they are named as the library names them.
    """

    name: str
    library: str
    class_name: str
    folder: Path | None = None
    files: tuple[WeightFile, ...] = ()
    numbers: int = 0
    stored_bytes: int = 0
    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class VaeSource:
    """A VAE of its own, which a model may use instead of the one that it came with."""

    name: str
    path: Path
    part: Part
    size_bytes: int


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded.

    pipeline: diffusers' class for it, for example StableDiffusionXLPipeline. dtype: of most of its numbers as they are stored, for example
    float16. size_bytes: of its weights on disk; in memory it takes `numbers` times the size of one number.
    sidecar: what the user's own file beside it says (`collodion.worker.registry.sidecars`). vae: instead of its own.
    """

    name: str
    kind: SourceKind
    path: Path
    pipeline: str
    parts: tuple[Part, ...]
    size_bytes: int
    dtype: str
    license: str = ""
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    vae: VaeSource | None = None

    @property
    def used(self) -> tuple[Part, ...]:
        """Its parts, the VAE being the one that is used."""
        if self.vae is None:
            return self.parts
        return tuple(self.vae.part if part.name == "vae" else part for part in self.parts)

    @property
    def numbers(self) -> int:
        """How many numbers its weights are."""
        return sum(part.numbers for part in self.used)

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """All files of its weights, each once."""
        return tuple(dict.fromkeys(file for part in self.used for file in part.files))

    def part(self, name: str) -> Part | None:
        """The part of this name, if it has one."""
        return next((part for part in self.used if part.name == name), None)


@dataclass(frozen=True)
class AdapterSource:
    """A LoRA or another adapter, or an embedding. `base` is the architecture that it was made for, empty if it cannot be told."""

    name: str
    path: Path
    kind: AdapterKind
    base: str
    file: WeightFile
    license: str = ""

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return self.file.size_bytes


@dataclass(frozen=True)
class Refusal:
    """What lies there and cannot be used; `reason` is a sentence that says what to do about it."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Registry:
    """Everything that a models directory holds, by name (`collodion.worker.registry.naming`).

    `seen` is what the next scan need not look at again.
    """

    directory: Path
    models: Mapping[str, ModelSource] = field(default_factory=dict)
    adapters: Mapping[str, AdapterSource] = field(default_factory=dict)
    vaes: Mapping[str, VaeSource] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    seen: Mapping[Path, Any] = field(default_factory=dict, repr=False)
