"""A step that raises has changed nothing, wherever it raised and whoever was in it."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from collodion.wire.jobs import Parameters
from collodion.worker.families import evaluation, step_batch
from collodion.worker.families.device import Device
from collodion.worker.families.start import Scene

AT = 4  # evaluations before the step that fails


@pytest.fixture(scope="module", params=[False, True], ids=["one batch", "a batch for each form"])
def model(request, load_family):
    return load_family("sd1", reproducible=request.param, max_batch=3)


def begun(model):
    """Samplers that draw, one of them with a mask, one with a step cache, one without guidance."""
    torch.manual_seed(0)
    said = (("euler_a", 4.0, 0.0), ("dpmpp_2m_sde", 1.0, 0.0), ("dpmpp_2m", 4.0, 10.0))
    plans = [
        model.prepare(Parameters("sd1", sampler, "", 64, 64, 7, sampler, scale, 0, 1, step_cache=cache))
        for sampler, scale, cache in said
    ]
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1.0
    plans[0] = replace(plans[0], scene=Scene(torch.rand(3, 64, 64) * 2 - 1, mask))
    conditioning = model.encode(plans).conditioning
    return [model.begin(plan, one, seed) for seed, (plan, one) in enumerate(zip(plans, conditioning, strict=True))]


def stepped(model, states, times):
    for _ in range(times):
        model.step(states)
    return states


@contextmanager
def failing(place, name):
    """The last call of it in a step raises."""
    whole, calls = getattr(place, name), []

    def counted(*arguments, **options):
        calls.append(name)
        return whole(*arguments, **options)

    def short(*arguments, **options):
        calls.pop()
        if not calls:
            raise MemoryError
        return whole(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:

        def arm():
            patch.setattr(place, name, short)

        patch.setattr(place, name, counted)
        yield arm


PLACES = {
    "model": (evaluation.EvaluationFunction, "rows"),
    "update": (evaluation, "update"),
    "upload": (step_batch, "upload"),
    "to_host": (Device, "to_host"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_step_that_raises_has_changed_nothing(place, model):
    undisturbed = stepped(model, begun(model), AT + 2)
    others, states = (stepped(model, begun(model), AT) for _ in range(2))
    before = [(state.trajectory.state, state.trajectory.state.clone(), state.reuse) for state in states]
    with failing(*PLACES[place]) as arm:
        model.step(others)  # so often it is called in a step
        arm()
        with pytest.raises(MemoryError):
            model.step(states)
    for state, (own, value, reuse) in zip(states, before, strict=True):
        assert state.trajectory.call == AT
        assert state.trajectory.state is own
        assert torch.equal(own, value)
        assert state.reuse is reuse
    assert states[2].reuse is not None
    stepped(model, states, 2)
    for state, expected in zip(states, undisturbed, strict=True):
        assert torch.equal(state.trajectory.state, expected.trajectory.state)
