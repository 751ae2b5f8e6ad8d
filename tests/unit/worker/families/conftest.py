"""Tiny models by name: as ours, and as diffusers' own pipelines."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # these tests share the tiny models


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model, saved once."""
    from tiny_models import save

    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else save(name, root / name)


@pytest.fixture(scope="session")
def load_family(family_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """A tiny model as our pipeline, loaded once for the same settings. It encodes every prompt anew: what one test did is not to matter
    in another."""
    from collodion.worker.config import WorkerConfig
    from collodion.worker.models import load_models

    loaded: dict[tuple[Any, ...], Any] = {}

    def load(name: str, **settings: Any) -> Any:
        key = (name, *sorted(settings.items()))
        if key not in loaded:
            said = {"text_cache_mib": 0, **settings}
            config = WorkerConfig(models=(f"{name}={family_folder(name)}",), device="cpu", threads=1, **said)
            loaded[key] = load_models(config)[1][name]
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def reference_of(family_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """A tiny model as diffusers' pipeline of this class (by default the one it was saved as), in this dtype (float32)."""
    import diffusers

    loaded: dict[tuple[Any, ...], Any] = {}
    without = {"sd1": ["safety_checker"], "sd2": ["safety_checker"], "sd3": ["text_encoder_3", "tokenizer_3"]}

    def load(name: str, pipeline_class: str = "DiffusionPipeline", dtype: Any = None) -> Any:
        key = (name, pipeline_class, dtype)
        if key not in loaded:
            extra = dict.fromkeys(without.get(name.split("_")[0], ()))
            made = getattr(diffusers, pipeline_class).from_pretrained(family_folder(name), **extra)
            made.set_progress_bar_config(disable=True)
            made.own_config = dict(made.scheduler.config)
            loaded[key] = made if dtype is None else made.to(dtype)
        return loaded[key]

    return load
