"""From what the registry found to a pipeline of ours.

The registry reads and checks (`collodion.worker.registry`); here its parts become a diffusers pipeline, and that one of ours.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from collodion.wire.artifacts import DirectoryStore
from collodion.wire.jobs import ModelInfo
from collodion.worker.config import WorkerConfig
from collodion.worker.families.adapter_files import AdapterFiles
from collodion.worker.families.architecture import Architecture
from collodion.worker.families.catalog import architecture_of
from collodion.worker.families.device import Device
from collodion.worker.families.latent_diffusion import LatentDiffusion
from collodion.worker.families.model_info import describe
from collodion.worker.families.optimized import Optimized
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.observer import ObserverFor, unobserved
from collodion.worker.optimize.plan import Plan, dtype_of, resolve
from collodion.worker.optimize.precision import vae_dtype
from collodion.worker.optimize.wishes import check, wish_for
from collodion.worker.registry import ModelSource, ModelUnusable, configs_of
from collodion.worker.registry.loading import ReadParts, load_parts
from collodion.worker.registry.modules import quieten
from collodion.worker.registry.sharing import SharedWeights
from collodion.worker.uploads import Uploads

_READING = 0.5  # of the progress of a model that is made ready after it was read, which takes about as long


class Loading:
    """Describes and loads models for one device. Any thread but the device's.

    adapters: those that requests may name. observer_for: whom a model that was loaded tells what its fast engine did. Whatever is wrong
    with a model is ModelUnusable, a sentence that names its file. Raises ConfigError if the settings' `optimize` cannot be read.
    """

    def __init__(
        self,
        config: WorkerConfig,
        device: Device,
        adapters: AdapterFiles,
        observer_for: ObserverFor = unobserved,
        read: ReadParts = load_parts,
    ) -> None:
        quieten()
        check(config.optimize)
        self._config = config
        self._device = device
        self._adapters = adapters
        self._observer_for = observer_for
        self._read = read
        self._uploads = Uploads(DirectoryStore(config.artifacts))
        # By what is done to weights after they were read.
        self._shared: defaultdict[object, SharedWeights] = defaultdict(SharedWeights)

    def describe(self, source: ModelSource) -> ModelInfo:
        """What clients are told of the model, from its configurations alone."""
        architecture = _architecture(source)
        configs = configs_of(source)
        plan = self._plan(source, architecture)
        said = {"license": source.license, **source.sidecar}
        try:
            return describe(source.name, architecture, configs, said, plan)
        except LookupError as error:
            raise ModelUnusable(f"{source.path} is not run: its configurations lack {error}") from error
        except (TypeError, ValueError) as error:
            raise ModelUnusable(f"{source.path} is not run: {error}") from error

    def load(self, source: ModelSource, progress: Callable[[float], None]) -> LatentDiffusion:
        """The model on the device. MemoryError: it does not fit."""
        info = self.describe(source)
        architecture = _architecture(source)
        plan = self._plan(source, architecture)
        place = self._device.place
        reading = 1.0 if not plan.makes_ready else _READING
        dtypes = {"vae": vae_dtype(plan.vae_dtype, plan.dtype, configs_of(source)["vae"], place)}
        shared = self._shared[plan.weights]
        parts = self._read(source, plan.dtype, place, shared, lambda done: progress(reading * done), dtypes)
        made = architecture(_pipeline(architecture, source, parts))
        try:
            optimized = Optimized(made, plan, place, self._observer_for(source.name))
            device = self._device.computing_in(plan.dtype)
            loaded = LatentDiffusion(made, info, self._config, device, self._uploads, self._adapters, optimized)
            try:
                loaded.make_ready(lambda done: progress(reading + (1 - reading) * done))
            except BaseException:
                loaded.close()  # its modules and what they call know each other: the memory would wait for a garbage collection
                raise
        except Unsuitable as unsuitable:
            raise ModelUnusable(f"the model {source.name}: {unsuitable.reason}") from unsuitable
        return loaded

    def _plan(self, source: ModelSource, architecture: type[Architecture]) -> Plan:
        """What its settings come down to. Raises ModelUnusable."""
        wish = wish_for(self._config.optimize, source.name)
        try:
            convolutional = architecture.denoiser_part == "unet"
            return resolve(wish, self._device.place, architecture.gpu_dtype, convolutional)
        except Unsuitable as unsuitable:
            raise ModelUnusable(f"the model {source.name}: {unsuitable.reason}") from unsuitable

    def number_bytes(self, source: ModelSource) -> int:
        """Of a weight, once it is loaded."""
        architecture = architecture_of(source.pipeline)
        gpu_dtype = torch.float32 if architecture is None else architecture.gpu_dtype
        return dtype_of(wish_for(self._config.optimize, source.name), self._device.place, gpu_dtype).itemsize


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
