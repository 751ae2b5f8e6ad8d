"""Step caches from the request to the finished latent."""

import pytest
import tiny_models
import torch
from msgspec import structs
from walking import apart
from written_files import diffusers_file

from collodion.wire.jobs import Lora, Parameters
from collodion.worker.config import WorkerConfig
from collodion.worker.models import load_models, open_library

PERMISSIONS = (0.3, 0.0, 0.2, 0.15)
GUIDANCE = (5.0, 5.0, 1.0, 5.0)


def load(**settings):
    return load_models(WorkerConfig(models=("shapes",), device="cpu", threads=1, **settings))[1]["shapes"]


@pytest.fixture(scope="module")
def model():
    return load()


@pytest.fixture(scope="module")
def reproducible():
    return load(reproducible=True, max_batch=4)


def job(seed, permission, scale, steps=8):
    return Parameters(
        "shapes", "a red circle", "blue", 32, 32, steps, "dpmpp_2m", scale, seed, 1, step_cache=permission
    )


JOBS = [job(seed, *each) for seed, each in enumerate(zip(PERMISSIONS, GUIDANCE, strict=True))]


def begin(model, jobs):
    plans = [model.prepare(one) for one in jobs]
    conditioning = model.encode(plans).conditioning
    return [model.begin(plan, one, its.seed) for plan, one, its in zip(plans, conditioning, jobs, strict=True)]


def run(model, jobs):
    """Their final latents, and how many evaluations of each reused."""
    states, reused = begin(model, jobs), [0] * len(jobs)
    while running := [state for state in states if not state.trajectory.finished]:
        model.step(running).span.wait()
        for place, state in enumerate(states):
            reused[place] += state.reuse is not None and state.reuse.in_a_row > 0
    assert all(state.reuse is None for state in states)
    return [state.trajectory.latent for state in states], reused


def test_whoever_has_permission_reuses_and_nobody_else_is_changed(model):
    together, reused = run(model, JOBS)
    assert reused[1] == 0
    assert all(reused[place] for place in (0, 2))
    for one, latent, times in zip(JOBS, together, reused, strict=True):
        (alone,), (lone,) = run(model, [one])
        assert lone == times
        assert torch.allclose(alone, latent, atol=1e-4)
    (plain,), _ = run(model, [job(0, 0.0, 5.0)])
    assert not torch.allclose(plain, together[0], atol=1e-3)


def test_a_reproducible_worker_draws_the_same_bits_whoever_else_reuses(reproducible):
    together, reused = run(reproducible, JOBS)
    for one, latent, times in zip(JOBS, together, reused, strict=True):
        (alone,), (lone,) = run(reproducible, [one])
        assert lone == times
        assert torch.equal(alone, latent)


def test_a_parked_latent_forgets_what_it_kept(model):
    states = begin(model, JOBS[:1])
    model.step(states).span.wait()
    assert states[0].reuse is not None
    model.park(states[0])
    assert states[0].reuse is None


@pytest.fixture(scope="module")
def dressed(tmp_path_factory):
    """A tiny model with two LoRAs."""
    root = tmp_path_factory.mktemp("library")
    tiny_models.save("sd1", root / "tiny")
    (root / "loras").mkdir()
    components = {"unet": tiny_models.UNet2DConditionModel.from_pretrained(root / "tiny" / "unet")}
    for seed, name in enumerate(("oil", "ink")):
        diffusers_file(root / "loras" / f"{name}.safetensors", components, rank=2 + seed, seed=seed)
    library = open_library(WorkerConfig(models=(), models_dir=root, device="cpu", threads=1))
    library.shelf.look()
    return library.shelf.load("tiny", lambda _: None)


@pytest.mark.parametrize("filled", [False, True])
def test_those_that_do_not_reuse_have_their_own_adapters_however_many_rows_are_filled_up(dressed, filled, monkeypatch):
    wanted = [((), 1e9), (("ink",), 0.0), (("oil",), 0.0), (("ink", "oil"), 1e-9)]
    jobs = [
        Parameters(
            "tiny",
            "a red circle",
            "blue",
            64,
            64,
            5,
            "ddim",
            5.0,
            seed,
            1,
            loras=tuple(Lora(name, 1.0) for name in names),
            step_cache=permission,
        )
        for seed, (names, permission) in enumerate(wanted)
    ]
    alone = [run(dressed, [one])[0][0] for one in jobs]
    if filled:
        monkeypatch.setattr(dressed._cache, "_padded", lambda _: 2 * len(jobs))
    together, reused = run(dressed, jobs)
    assert reused == [3, 0, 0, 0]
    for latent, expected in zip(together, alone, strict=True):
        assert apart(latent, expected) < 1e-4
    (bare,), _ = run(dressed, [structs.replace(jobs[1], loras=())])
    assert apart(bare, alone[1]) > 1e-3
