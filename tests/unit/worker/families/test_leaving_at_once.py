"""A model that leaves gives its memory back at once: the next one is loaded into its place, and no garbage collection comes between."""

import gc
import weakref

import pytest
import torch

from collodion.wire.jobs import Parameters
from collodion.worker.config import WorkerConfig
from collodion.worker.models import load_models


@pytest.fixture
def without_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collections")
@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd35", "flux_dev", "qwen_image", "z_image"])
def test_a_closed_model_leaves_no_weights_behind(family, family_folder):
    config = WorkerConfig(models=(f"tiny={family_folder(family)}",), device="cpu", threads=1)
    model = load_models(config)[1]["tiny"]
    parts = [part for part in model._architecture.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    weights = [weakref.ref(weight) for part in parts for weight in (*part.parameters(), *part.buffers())]
    del parts
    sampler = model.info.default_sampler
    plan = model.prepare(Parameters("tiny", "a fox", "", 64, 64, 4, sampler, 4.0, 7, 1))
    state = model.begin(plan, model.encode([plan]).conditioning[0], 1)
    model.step([state])
    model.decode([state])
    del plan, state
    model.close()
    assert sum(weight() is not None for weight in weights) == 0
