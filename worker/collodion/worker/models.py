"""From the `models` setting to loaded pipelines.

`shapes` is the embedded model, `simulated` needs no torch, NAME=/path is a diffusers folder. A family is imported only
if a model needs it, so that a worker with simulated models alone starts in no time and without torch.
"""

from collections.abc import Mapping
from pathlib import Path

from collodion.process.config import ConfigError
from collodion.worker.config import WorkerConfig
from collodion.worker.pipeline import AnyPipeline

EMBEDDED = Path(__file__).parent / "shapes"


def load_models(config: WorkerConfig) -> tuple[str, Mapping[str, AnyPipeline]]:
    """The device, in words, and the pipelines by name.

    Raises:
        ConfigError: a model is named twice, its folder is missing or is not a model of a family that we know, or the device is not there.
    """
    sources = dict(_source(word) for word in config.models)
    if len(sources) != len(config.models) or not sources:
        raise ConfigError(f"models: {','.join(config.models)} must name at least one model, and each once")
    simulated = {name for name, folder in sources.items() if folder is None}
    pipelines: dict[str, AnyPipeline] = {name: _simulated(name, config) for name in simulated}
    if simulated == sources.keys():
        return "simulated", pipelines
    from collodion.worker.families.device import choose_device
    from collodion.worker.families.loading import load_folder

    device = choose_device(config)
    for name, folder in sources.items():
        if folder is not None:
            pipelines[name] = load_folder(name, folder, config, device)
    return str(device.place), {name: pipelines[name] for name in sources}


def _source(word: str) -> tuple[str, Path | None]:
    name, equals, path = word.strip().partition("=")
    if name and equals and path:
        return name, Path(path).expanduser()
    if word == "simulated":
        return word, None
    if word == "shapes":
        return word, EMBEDDED
    raise ConfigError(f"models: {word!r} is neither shapes, nor simulated, nor NAME=/path/to/folder")


def _simulated(name: str, config: WorkerConfig) -> AnyPipeline:
    from collodion.worker.families.simulated import Simulated

    return Simulated(name, config)
