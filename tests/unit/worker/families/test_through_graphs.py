"""What is captured draws what is not: a CPU replays the call over tensors of its own, as a CUDA graph does."""

import gc
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec import structs

sys.path.insert(0, str(Path(__file__).parents[2] / "optimize"))
sys.path.insert(0, str(Path(__file__).parents[2] / "adapters"))

from replaying import Notes, Replaying

from collodion.wire.jobs import Parameters
from collodion.worker.families.architecture import Prompt
from collodion.worker.families.evaluation import EvaluationFunction
from collodion.worker.optimize.ready import Ready
from collodion.worker.prompting.embeddings import Embedding

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
            model = load_family(name, max_batch=3, encode_batch=2, decode_batch=3, optimize=("cuda_graphs=auto",))
            notes, maker = Notes(), Replaying()
            optimized = model._optimized
            optimized.plan = replace(optimized.plan, sizes=((64, 64),))  # smaller than some of them would be asked for
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


def test_vectors_of_an_embedding_are_not_lost_in_a_graph(captured, load_family):
    """Their text encoder is called by a hook within, which a graph does not call."""
    vectors = torch.full((2, 16), 3.0)
    known = {"madeup": Embedding("madeup", (vectors,), "digest")}

    def encoded(model, text):
        read = model._architecture._prompter.prepare(text, known)
        prompt = Prompt(text, False, read)
        return model._encoder.encode([prompt])[prompt]["states"]

    model, _, notes = captured("sd1")
    for text in ("a circle", "a madeup circle", "a circle"):
        notes.fallbacks.clear()
        assert close([encoded(model, text)], [encoded(load_family("sd1"), text)])
        assert notes.fallbacks == (["embeddings"] if "madeup" in text else [])


def test_a_model_whose_texts_are_ragged_is_loaded_and_drawn_eagerly(captured, load_family):
    model, maker, notes = captured("z_image")
    assert len(maker.made) == len(model._optimized.ready.sizes(3))  # of its VAE
    notes.fallbacks.clear()
    (job,) = jobs_of(model)[:1]
    assert close(run(model, [job]), run(load_family("z_image"), [job]))
    assert set(notes.fallbacks) == {"ragged_texts"}


@pytest.fixture
def called(monkeypatch):
    """The rows of each call of a denoiser from now on."""
    rows, made = [], EvaluationFunction.rows

    def noted(self, tensors):
        rows.append(len(tensors["source"]))
        return made(self, tensors)

    monkeypatch.setattr(EvaluationFunction, "rows", noted)
    return rows


def test_what_runs_eagerly_anyway_is_not_filled_up(captured, called):
    model, _, _ = captured("z_image")
    plans = [model.prepare(job) for job in jobs_of(model)]  # two of them guided
    conditioning = model.encode(plans).conditioning
    called.clear()
    model.step([model.begin(plan, one, 0) for plan, one in zip(plans, conditioning, strict=True)])
    assert called == [5]


@pytest.fixture
def own(load_family):
    """A model of its own: captured is what it draws, at rest."""
    model, maker = (
        load_family("sd1", max_batch=3, adapters_mib=64),
        Replaying(),
    )
    before = model._optimized.ready
    model._optimized.ready = Ready(maker, torch.device("cpu"), 1 << 30, Notes())
    yield model, maker
    model._optimized.ready = before
    model._forget()


def with_adapter(model, path, seed=1):
    from written_files import diffusers_file

    if not path.exists():
        diffusers_file(path, {"unet": model._architecture.denoiser}, rank=4, seed=seed)
    return replace(model.prepare(jobs_of(model)[0]), uses=(model._adapters.load(path).at(1.0),))


def test_shapes_that_wait_to_be_captured_hold_no_adapters(own, tmp_path):
    model, _ = own
    plan = with_adapter(model, tmp_path / "one.safetensors")
    adapter = plan.uses[0].adapter
    (conditioning,) = model.encode([plan]).conditioning
    state = model.begin(plan, conditioning, 1)
    model.step([state])
    assert adapter.held
    del plan, conditioning, state
    model._forget()
    gc.collect()
    assert not adapter.held
    assert model._optimized.ready._lacked


def test_what_reads_adapters_that_are_gone_is_not_captured_at_rest(own, tmp_path):
    model, maker = own
    plan = with_adapter(model, tmp_path / "one.safetensors")
    (conditioning,) = model.encode([plan]).conditioning
    model.step([model.begin(plan, conditioning, 1)])
    model._adapters.bank.clear()  # their pools are closed: on a GPU, reading them would be the end of the process's context
    assert not model.tidy()
    assert maker.made == []


def test_a_neighbour_with_a_step_cache_changes_no_bit_of_a_reproducible_picture(load_family, called):
    """Its calls run eagerly, the others through what was captured: filled up alike, as many rows in both."""
    model = load_family("sd1", reproducible=True, max_batch=5)  # ten rows, which are filled up to twelve
    before, notes = model._optimized.ready, Notes()
    model._optimized.ready = Ready(Replaying(), torch.device("cpu"), 1 << 30, notes)
    one, other = jobs_of(model)[:2]
    path = [run(model, [one, structs.replace(other, step_cache=cache, steps=8)])[0] for cache in (0.0, 10.0)]
    assert torch.equal(*path)
    assert set(called) == {12}
    assert set(notes.fallbacks) == {"not_ready", "step_cache"}
    model._optimized.ready = before
    model._forget()
