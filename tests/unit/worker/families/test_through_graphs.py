"""What is captured draws what is not: a CPU replays the call over tensors of its own, as a CUDA graph does."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "optimize"))
sys.path.insert(0, str(Path(__file__).parents[2] / "adapters"))

from replaying import Notes, Replaying

from collodion.wire.jobs import Parameters
from collodion.worker.optimize.ready import Ready

FAMILIES = ("sd1", "sdxl", "flux_dev", "sd35")
TOLERANCE = 1e-4  # of the largest value; other numbers of rows, other kernels


def jobs_of(model, **fields):
    """Strangers: other prompts, samplers with other histories and with noise, other lengths, guided or not."""
    samplers = [name for name in ("euler_a", "dpmpp_2m", "unipc", "pndm", "euler") if name in model.info.samplers]
    return [
        Parameters(
            model.info.name,
            ("a red circle", "two blue squares", "nothing at all")[number],
            "",
            64,
            64,
            3 + number,
            samplers[number % len(samplers)],
            (4.0, 2.5, 1.0)[number],
            number,
            1,
            **fields,
        )
        for number in range(3)
    ]


def run(model, jobs):
    """All at once, those that are finished leaving; their final latents."""
    plans = [model.prepare(job) for job in jobs]
    conditioning = model.encode(plans).conditioning
    states = [model.begin(plan, one, job.seed) for plan, one, job in zip(plans, conditioning, jobs, strict=True)]
    while running := [state for state in states if not state.trajectory.finished]:
        assert model.step(running).non_finite() == []
    pictures = model.decode(states).pictures()
    assert all(picture is not None for picture in pictures)
    return [state.trajectory.latent.clone() for state in states]


def close(ours, expected):
    return all(
        float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max())
        for one, other in zip(ours, expected, strict=True)
    )


@pytest.fixture(scope="module")
def captured(load_family):
    """A family whose calls go through what was captured, and what its observer notes."""
    made = {}

    def load(name):
        if name not in made:
            model, notes, maker = (
                load_family(name, max_batch=3, encode_batch=2, decode_batch=3, optimize=("sizes=64x64",)),
                Notes(),
                Replaying(),
            )
            optimized = model._optimized
            optimized.ready = Ready(maker, torch.device("cpu"), 1 << 30, notes)
            optimized.modules |= dict(optimized._through_graphs())
            model.make_ready()
            made[name] = model, maker, notes
        return made[name]

    return load


@pytest.mark.parametrize("family", FAMILIES)
def test_strangers_draw_through_graphs_what_they_draw_eagerly(family, captured, load_family):
    model, maker, notes = captured(family)
    notes.fallbacks.clear()
    replays = sum(one.replays for one in maker.made)
    drawn = run(model, jobs_of(model))
    assert notes.fallbacks == []
    assert sum(one.replays for one in maker.made) >= replays + 5 + 2  # steps, texts, pictures
    assert close(drawn, run(load_family(family), jobs_of(model)))


@pytest.mark.parametrize("family", FAMILIES)
def test_two_prompts_through_one_graph_are_two_pictures(family, captured):
    model, _, notes = captured(family)
    one, other = jobs_of(model)[:2]
    other = Parameters(**{**{name: getattr(one, name) for name in one.__struct_fields__}, "prompt": other.prompt})
    notes.fallbacks.clear()
    first, second, again = (run(model, [job])[0] for job in (one, other, one))
    assert notes.fallbacks == []
    assert torch.equal(first, again)
    assert not close([first], [second])


def test_rows_that_only_fill_up_leak_into_no_other(captured):
    model, _, _ = captured("sd1")
    jobs = jobs_of(model)
    assert close(run(model, jobs), [run(model, [job])[0] for job in jobs])


def test_another_size_is_drawn_eagerly_and_captured_at_rest(captured):
    model, _, notes = captured("sd1")
    (job,) = jobs_of(model)[:1]
    large = Parameters(**{**{name: getattr(job, name) for name in job.__struct_fields__}, "width": 96})
    notes.fallbacks.clear()
    first = run(model, [large])
    assert set(notes.fallbacks) == {"not_ready"}
    while model.tidy():
        pass
    notes.fallbacks.clear()
    assert close(run(model, [large]), first)
    assert notes.fallbacks == []
    assert notes.recompilations == 0


def test_where_prompts_have_any_length_they_are_filled_up_to_few(captured):
    model, _, notes = captured("qwen_image")
    one, other = jobs_of(model)[:2]
    different = run(model, [one]), run(model, [other])
    while model.tidy():
        pass
    notes.fallbacks.clear()
    assert [close(run(model, [job]), drawn) for job, drawn in zip((one, other), different, strict=True)] == [True, True]
    assert not close(*different)
    assert notes.fallbacks == []


def test_adapters_by_the_row_are_copied_into_the_graph(captured, load_family, tmp_path):
    from written_files import diffusers_file

    model, maker, notes = captured("sd1")
    files = [
        diffusers_file(tmp_path / f"{seed}.safetensors", {"unet": model._architecture.denoiser}, rank=4, seed=seed)
        for seed in (1, 2)
    ]

    def jobs_with(model):
        """The same jobs with other adapters each, and one without."""
        plans = [model.prepare(job) for job in jobs_of(model)]
        one, other = (model._adapters.load(file) for file in files)
        uses = [(one.at(1.0),), (), (other.at(0.5), one.at(-1.0))]
        return [replace(plan, uses=ours) for plan, ours in zip(plans, uses, strict=True)]

    def draw(model, plans):
        conditioning = model.encode(plans).conditioning
        states = [model.begin(plan, one, 5) for plan, one in zip(plans, conditioning, strict=True)]
        while running := [state for state in states if not state.trajectory.finished]:
            model.step(running)
        return [state.trajectory.latent.clone() for state in states]

    expected = draw(load_family("sd1"), jobs_with(load_family("sd1")))
    plain = draw(model, [model.prepare(job) for job in jobs_of(model)])
    assert close(draw(model, jobs_with(model)), expected)  # eagerly, and remembered
    while model.tidy():
        pass
    notes.fallbacks.clear()
    replays = sum(one.replays for one in maker.made)
    assert close(draw(model, jobs_with(model)), expected)
    turned = draw(model, jobs_with(model)[::-1])[::-1]
    assert notes.fallbacks == []
    assert sum(one.replays for one in maker.made) > replays
    assert not close([turned[0]], [plain[0]])
    assert close([draw(model, jobs_with(model)[1:2])[0]], [expected[1]])
