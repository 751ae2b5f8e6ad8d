"""From what the registry found to a pipeline of ours.

The registry reads and checks (`collodion.worker.registry`); here its parts become a diffusers pipeline, and that one of ours.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from collodion.wire.artifacts import DirectoryStore
from collodion.wire.jobs import ModelInfo
from collodion.worker.config import WorkerConfig
from collodion.worker.families.adapter_files import AdapterFiles
from collodion.worker.families.architecture import Architecture
from collodion.worker.families.catalog import architecture_of
from collodion.worker.families.device import Device
from collodion.worker.families.latent_diffusion import LatentDiffusion
from collodion.worker.families.model_info import describe
from collodion.worker.optimize.observer import ObserverFor, unobserved
from collodion.worker.registry import ModelSource, ModelUnusable, configs_of
from collodion.worker.registry.loading import load_parts
from collodion.worker.registry.modules import quieten
from collodion.worker.registry.sharing import SharedWeights
from collodion.worker.uploads import Uploads


class Loading:
    """Describes and loads models for one device. Any thread but the device's.

    adapters: those that requests may name. observer_for: whom a model that was loaded tells what its fast engine did. Whatever is wrong
    with a model is ModelUnusable, a sentence that names its file.
    """

    def __init__(
        self, config: WorkerConfig, device: Device, adapters: AdapterFiles, observer_for: ObserverFor = unobserved
    ) -> None:
        quieten()
        self._config = config
        self._device = device
        self._adapters = adapters
        self._observer_for = observer_for
        self._uploads = Uploads(DirectoryStore(config.artifacts))
        self._shared = SharedWeights()

    def describe(self, source: ModelSource) -> ModelInfo:
        """What clients are told of the model, from its configurations alone."""
        architecture = _architecture(source)
        configs = configs_of(source)
        dtype = str(self._device.suiting(architecture.gpu_dtype).dtype).removeprefix("torch.")
        said = {"license": source.license, **source.sidecar}
        try:
            return describe(source.name, architecture, configs, said, dtype)
        except LookupError as error:
            raise ModelUnusable(f"{source.path} is not run: its configurations lack {error}") from error
        except (TypeError, ValueError) as error:
            raise ModelUnusable(f"{source.path} is not run: {error}") from error

    def load(self, source: ModelSource, progress: Callable[[float], None]) -> LatentDiffusion:
        """The model on the device. MemoryError: it does not fit."""
        info = self.describe(source)
        architecture = _architecture(source)
        device = self._device.suiting(architecture.gpu_dtype)
        parts = load_parts(source, device.dtype, device.place, self._shared, progress)
        made = architecture(_pipeline(architecture, source, parts))
        return LatentDiffusion(made, info, self._config, device, self._uploads, self._adapters)


def _architecture(source: ModelSource) -> type[Architecture]:
    architecture = architecture_of(source.pipeline)
    if architecture is None:
        raise ModelUnusable(f"{source.path} is a {source.pipeline}, which this version does not run")
    return architecture


def _pipeline(architecture: type[Architecture], source: ModelSource, parts: Mapping[str, Any]) -> Any:
    """A pipeline of diffusers around the parts; those that it can do without are None."""
    import diffusers  # gives advice on importing a pipeline, so that it has to be quiet before

    kind = getattr(diffusers, architecture.pipelines[0])
    accepted = inspect.signature(kind).parameters
    options = {name: value for name, value in _options(source).items() if name in accepted}
    if "requires_safety_checker" in accepted:
        options["requires_safety_checker"] = False
    if "add_watermarker" in accepted:
        options["add_watermarker"] = False  # it would need a package that marks pictures without being asked
    without = {name: None for name in (*kind._optional_components, *architecture.spared) if name in accepted} | {
        name: None for name in ("safety_checker", "feature_extractor", "image_encoder") if name in accepted
    }
    return kind(**{**without, **options, **{name: part for name, part in parts.items() if name in accepted}})


def _options(source: ModelSource) -> Mapping[str, Any]:
    """What its index says beside its parts."""
    index = configs_of(source)["model_index"]
    return {name: value for name, value in index.items() if isinstance(value, bool | int | float | str)}
