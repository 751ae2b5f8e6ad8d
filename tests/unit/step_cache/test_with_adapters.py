"""Latents with different LoRAs in a call in which some reuse: the deep part's rows have their own."""

import pytest
from walking import Walker, apart, architecture, walk
from written_files import attention_only, diffusers_file

from collodion.worker.adapters.adapters import AdapterBudgets, Adapters

PLENTY = AdapterBudgets(device_bytes=1 << 30, host_bytes=1 << 30)
THRESHOLDS = {"sd1": 0.1, "sd35": 0.08, "flux_dev": 0.1, "z_image": 0.5}
RED, GREEN = "a red circle", "two small green squares and many more"


def crowd(threshold):
    return [
        Walker((RED, "blue"), 1, threshold),
        Walker((RED, "blue"), 2),
        Walker((GREEN,), 3, 1e9),
        Walker((GREEN, RED), 4, 1e-9),
        Walker((RED,), 5, threshold),
    ]


@pytest.fixture(params=THRESHOLDS)
def dressed(request, tmp_path):
    """A model's name, the model, and what has these adapters applied to walkers by their seeds: two, none, one, another, that one."""
    model = architecture(request.param)
    part = model.denoiser_part
    components = {part: model.denoiser}
    files = [
        diffusers_file(tmp_path / f"{rank}.safetensors", components, rank=rank, seed=rank, wanted=attention_only)
        for rank in (3, 6)
    ]
    adapters = Adapters(components, PLENTY, model.unadapted, every_row=False)
    a, b = (adapters.load(file) for file in files)
    uses = {1: (a.at(0.8), b.at(-0.4)), 2: (), 3: (a.at(1.0),), 4: (b.at(0.7),), 5: (b.at(0.7),)}

    def around(walkers):
        order = [*walkers, *(walker for walker in walkers if len(walker.prompts) > 1)]
        return lambda rows: adapters.applied(adapters.select(part, [uses[order[row].seed] for row in rows]))

    yield request.param, model, around
    adapters.close()


def test_a_latent_with_adapters_is_the_same_alone_as_beside_others_that_reuse(dressed):
    name, model, around = dressed
    together = crowd(THRESHOLDS[name])
    walk(model, together, around)
    for place, walker in enumerate(together):
        lone = crowd(THRESHOLDS[name])[place]
        walk(model, [lone], around)
        assert lone.reused == walker.reused
        assert all(apart(one, other) < 1e-4 for one, other in zip(walker.outputs, lone.outputs, strict=True))
    assert any(0 < sum(walker.reused[call] for walker in together) < len(together) for call in range(7))
    bare = crowd(0.0)
    walk(model, bare)
    assert apart(together[3].outputs[-1], bare[3].outputs[-1]) > 1e-3
    assert apart(together[1].outputs[-1], bare[1].outputs[-1]) < 1e-4
