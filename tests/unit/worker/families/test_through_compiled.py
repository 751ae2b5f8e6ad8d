"""What is compiled at load draws what is not, whoever has adapters, and nothing is compiled afterwards. By a backend that takes no time:
what it would be replaced by, `tests/unit/optimize/test_compilation.py` knows."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "optimize"))
sys.path.insert(0, str(Path(__file__).parents[2] / "adapters"))

from replaying import Notes
from written_files import diffusers_file

from collodion.process.config import ConfigError
from collodion.wire.jobs import Parameters
from collodion.worker.config import WorkerConfig
from collodion.worker.families.latent_diffusion import LatentDiffusion
from collodion.worker.models import keep_pinned, load_models, open_library
from collodion.worker.optimize import compilation
from collodion.worker.optimize.compilation import BlockCompiler
from collodion.worker.residency import Residents
from collodion.worker.shelf import NotWished

TOLERANCE = 1e-4  # of the largest value; other numbers of rows, other kernels


def broken(graph, _inputs):
    raise RuntimeError("this backend makes nothing")


@pytest.fixture(scope="module")
def quick():
    """Compiles with what it is given, by default with nothing, and keeps no kernels."""
    with pytest.MonkeyPatch.context() as patch:

        def use(backend="eager"):
            patch.setattr(compilation, "BlockCompiler", partial(BlockCompiler, backend=backend))
            patch.setattr(compilation, "_check_compiler", lambda _: None)
            patch.setattr(compilation, "keep_in", lambda folder: folder)

        yield use


def config_for(name, folder, **settings):
    said = {"text_cache_mib": 0, "optimize": ("compile=regional",), **settings}
    return WorkerConfig(models=(f"{name}={folder}",), device="cpu", threads=1, **said)


@pytest.fixture(scope="module")
def compiled(family_folder, quick):
    """A model whose blocks are compiled, and what its observer notes."""
    quick()
    notes, models = Notes(), Residents()
    keep_pinned(open_library(config_for("sd1", family_folder("sd1"), max_batch=2), lambda _: notes), models)
    return models._resident["sd1"], notes


@pytest.fixture(scope="module")
def files(compiled, tmp_path_factory):
    """Adapters of different ranks for the denoiser."""
    folder, denoiser = tmp_path_factory.mktemp("loras"), compiled[0]._architecture.denoiser
    return [
        diffusers_file(folder / f"{rank}.safetensors", {"unet": denoiser}, rank=rank, seed=rank) for rank in (4, 12)
    ]


def plan_of(model, seed, *uses):
    job = Parameters("sd1", f"prompt {seed}", "", 64, 64, 3, ("euler_a", "dpmpp_2m")[seed % 2], 4.0, seed, 1)
    return replace(model.prepare(job), uses=tuple(model._adapters.load(file).at(scale) for file, scale in uses))


def draw(model, *plans):
    conditioning = model.encode(plans).conditioning
    states = [
        model.begin(plan, one, number) for number, (plan, one) in enumerate(zip(plans, conditioning, strict=True))
    ]
    while running := [state for state in states if not state.trajectory.finished]:
        model.step(running)
    return torch.stack([state.trajectory.latent for state in states])


def close(ours, expected):
    return float((ours - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def test_strangers_with_other_adapters_each_draw_what_they_draw_eagerly(compiled, files, load_family):
    model, notes = compiled
    assert set(notes.ready) == {"compiled"}
    assert notes.fallbacks == []
    one, other = files
    compositions = [
        ((), ()),  # before any adapter came
        (((one, 1.0),), ()),  # the first opens its modules
        (((one, 1.0),), ((other, 0.5), (one, -1.0))),
        ((), ((other, 2.0),)),
        ((), ()),
    ]
    eager, drawn = load_family("sd1"), []
    for uses in compositions:
        ours = draw(model, *(plan_of(model, seed, *mine) for seed, mine in enumerate(uses)))
        assert close(ours, draw(eager, *(plan_of(eager, seed, *mine) for seed, mine in enumerate(uses))))
        drawn.append(ours)
    assert (notes.fallbacks, notes.recompilations) == ([], 0)
    assert not close(drawn[1][0], drawn[0][0])
    assert close(drawn[1][1], drawn[0][1])  # the neighbour's adapter is none of its business
    assert torch.equal(drawn[4], drawn[0])


def test_whatever_was_not_compiled_is_eager_counted_and_not_compiled_later(compiled, load_family):
    model, notes = compiled
    job = Parameters("sd1", "wide", "", 96, 64, 2, "euler", 4.0, 1, 1)
    notes.fallbacks.clear()
    drawn = draw(model, model.prepare(job))
    assert notes.fallbacks == ["not_ready"] * 2
    assert not model.tidy()
    assert close(drawn, draw(load_family("sd1"), load_family("sd1").prepare(job)))
    assert notes.recompilations == 0
    notes.fallbacks.clear()


def test_a_model_of_which_nothing_can_be_compiled_is_refused(family_folder, quick):
    quick(broken)
    with pytest.raises(ConfigError, match="nothing of it could be compiled"):
        load_models(config_for("sd1", family_folder("sd1"), max_batch=1))
    quick()


def test_a_load_that_is_broken_off_gives_its_memory_back_at_once(family_folder, quick, monkeypatch):
    """Its modules know each other by what was put before their calls: a garbage collection may be far away."""
    quick()
    closed = []
    monkeypatch.setattr(LatentDiffusion, "close", lambda model: closed.append(model.info.name))
    library = open_library(config_for("sd1", family_folder("sd1"), max_batch=1))
    library.shelf.look()

    def unwanted(done):
        if done > 0.5:  # it was read, and is being compiled
            raise NotWished("sd1")

    with pytest.raises(NotWished):
        library.shelf.load("sd1", unwanted)
    assert closed == ["sd1"]


def test_a_model_whose_texts_are_ragged_is_refused(family_folder, quick):
    quick()
    with pytest.raises(ConfigError, match="lengths of its own"):
        load_models(config_for("z_image", family_folder("z_image")))
