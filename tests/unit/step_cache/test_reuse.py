"""Who reuses what, and that nobody's neighbours have anything to do with it."""

from contextlib import nullcontext

import pytest
import torch
from walking import EVALUATIONS, Walker, alone, apart, architecture, call_of, step, walk

from collodion.worker.step_cache.reuse import MOST_IN_A_ROW, CachedLatent, StepCache

THRESHOLDS = {
    "sd1": 0.1,
    "sdxl": 0.13,
    "sd35": 0.08,
    "flux_dev": 0.1,
    "qwen_image": 0.13,
    "z_image": 0.5,
}
ALWAYS = 1e9  # whatever has changed
RED, GREEN = "a red circle", "two small green squares and many more"


def crowd(threshold):
    """Guided and not, with prompts of different lengths; with much, some, little and no permission; some are finished early."""
    return [
        Walker((RED, "blue"), 1, threshold),
        Walker((GREEN, "blue"), 2, 0.0, stride=0.1),
        Walker((RED,), 3, threshold * 1.2, stride=0.1, evaluations=EVALUATIONS - 2),
        Walker((GREEN,), 4, ALWAYS, evaluations=EVALUATIONS - 1),
        Walker((GREEN, RED), 5, threshold / 4),
    ]


def subsets(into):
    """Writes down which rows the model is called with."""

    def around(rows):
        into.append(list(rows))
        return nullcontext()

    return lambda _: around


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_latent_alone_is_the_same_as_in_a_crowd(name):
    model, together = architecture(name), crowd(THRESHOLDS[name])
    walk(model, together)
    for place, walker in enumerate(together):
        lone = crowd(THRESHOLDS[name])[place]
        walk(model, [lone])
        assert lone.reused == walker.reused, place
        for ours, others in zip(walker.outputs, lone.outputs, strict=True):
            assert apart(ours, others) < 1e-4, place
    assert any(together[0].reused)
    assert not all(together[0].reused[1:-1])
    assert not any(together[1].reused)
    assert any(len({walker.reused[call] for walker in together}) > 1 for call in range(EVALUATIONS - 2))


@pytest.mark.parametrize("name", THRESHOLDS)
def test_without_a_threshold_nothing_is_done_in_another_way(name):
    model = architecture(name)
    (walker, *_) = walkers = [Walker((RED, "blue"), 1), Walker((GREEN,), 2)]
    walk(model, walkers)
    plain = Walker((RED, "blue"), 1), Walker((GREEN,), 2)
    for one in plain:
        one.begin(model)
    with torch.inference_mode():
        for call in range(EVALUATIONS):
            predicted = model.predict(call_of(plain)[0])
            assert torch.equal(predicted[[0, 2]], walker.outputs[call])
            for place, one in enumerate(plain):
                one.latent = one.latent.clone()
                one.latent[: predicted.shape[1]] -= one.stride * predicted[place]
                one.done += 1


def test_a_call_in_which_nobody_has_permission_is_the_architectures_own(monkeypatch):
    model = architecture("sd1")
    cache = StepCache(model)
    monkeypatch.setattr(cache, "_parts", None)
    walker = Walker((RED,), evaluations=1, threshold=ALWAYS)
    walker.begin(model)
    with torch.inference_mode():
        step(cache, [walker])
    assert walker.reuse is None


@pytest.mark.parametrize("name", THRESHOLDS)
def test_those_without_permission_draw_the_same_bits_beside_those_with_it_if_all_calls_are_of_one_size(name):
    model = architecture(name)
    beside, without = crowd(THRESHOLDS[name]), crowd(THRESHOLDS[name])
    rest = EVALUATIONS - 3  # before the first is finished
    for walkers in (beside, without):
        for walker in walkers:
            walker.begin(model)
    for walker in without:
        walker.threshold = 0.0
    size = len(call_of(beside)[0].inputs)
    cache = StepCache(model, padded=lambda _: size)
    with torch.inference_mode():
        for _ in range(rest):
            step(cache, beside)
            step(cache, without)
    assert any(beside[3].reused)
    assert all(torch.equal(one, other) for one, other in zip(beside[1].outputs, without[1].outputs, strict=True))


@pytest.mark.parametrize("name", ["sd1", "flux_dev", "z_image"])
def test_the_first_evaluation_and_the_last_one_are_full_and_no_more_than_some_in_a_row_are_not(name):
    walker = Walker((RED,), threshold=ALWAYS, evaluations=2 * MOST_IN_A_ROW + 4)
    walk(architecture(name), [walker])
    run = [False] + [True] * MOST_IN_A_ROW
    assert walker.reused == [*run, *run, False, False]
    assert walker.reuse is None


def test_what_counts_is_the_change_since_the_last_full_evaluation_of_both_rows():
    model = architecture("sd1")
    parts, walker = model.parts(), Walker((RED, "blue"), threshold=ALWAYS)
    walker.begin(model)
    cache = StepCache(model)
    with torch.inference_mode():
        changes = []
        for _ in range(3):
            changes.append(parts.shallow(model.call(call_of([walker])[0]))[1])
            step(cache, [walker])
        assert walker.reused == [False, True, True]
        rows = call_of([walker])[0]
        now = parts.shallow(model.call(rows))[1]
        relative = float((now - changes[0]).abs().mean() / changes[0].abs().mean())
        for threshold, reuses in ((relative * 0.999, False), (relative * 1.001, True)):
            _, (kept,) = cache.predict(rows, [CachedLatent((0, 1), threshold, walker.reuse, may=True)], alone)
            assert kept.in_a_row == (walker.reuse.in_a_row + 1 if reuses else 0)


def test_the_model_is_called_with_the_rows_of_those_that_do_not_reuse():
    called = []
    walkers = [
        Walker((RED, "blue"), 1, ALWAYS, evaluations=3),
        Walker((GREEN, RED), 2, evaluations=3),
        Walker((RED,), 3, 1e-9, evaluations=3),
    ]
    walk(architecture("sd1"), walkers, subsets(called), padding=2)
    everybody = list(range(7))
    assert called == [everybody, everybody, everybody, everybody, [1, 4, 2], everybody, everybody]


def test_where_all_reuse_the_deep_part_is_not_called():
    called = []
    walk(architecture("flux_dev"), [Walker((RED,), seed, ALWAYS, evaluations=3) for seed in range(2)], subsets(called))
    assert called == [[0, 1]] * (3 + 2 + 1)


def test_a_call_is_filled_up_to_a_number_of_rows_that_is_ready():
    called = []
    walkers = [
        Walker((RED,), 1, ALWAYS, evaluations=3),
        *(Walker((GREEN,), seed, 1e-9, evaluations=3) for seed in range(3)),
    ]
    walk(architecture("sd1"), walkers, subsets(called), padded=lambda rows: max(4, rows))
    assert called[4] == [1, 2, 3, 3]
    lone = Walker((GREEN,), 0, evaluations=3)
    walk(architecture("sd1"), [lone])
    assert apart(walkers[1].outputs[1], lone.outputs[1]) < 1e-5


def test_a_latent_that_has_forgotten_begins_anew():
    model = architecture("sd1")
    walker, cache = Walker((RED,), threshold=ALWAYS), StepCache(model)
    walker.begin(model)
    with torch.inference_mode():
        for call in range(4):
            if call == 2:
                walker.reuse = None
            step(cache, [walker])
    assert walker.reused == [False, True, False, True]


def test_a_change_that_is_no_number_is_no_reason_to_reuse():
    model = architecture("sd1")
    lost, sound, cache = Walker((RED,), 1, ALWAYS), Walker((GREEN,), 2, ALWAYS), StepCache(model)
    for walker in (lost, sound):
        walker.begin(model)
    with torch.inference_mode():
        step(cache, [lost, sound])
        lost.latent[:] = torch.nan
        step(cache, [lost, sound])
    assert (lost.reused[1], sound.reused[1]) == (False, True)
    assert sound.outputs[1].isfinite().all()


def test_what_a_latent_keeps_is_its_own_memory():
    model = architecture("sd1")
    walkers, cache = [Walker((RED, "blue"), seed, ALWAYS) for seed in range(3)], StepCache(model)
    for walker in walkers:
        walker.begin(model)
    with torch.inference_mode():
        step(cache, walkers)
    for walker in walkers:
        kept = walker.reuse.change, walker.reuse.deep
        assert all(len(tensor) == 2 for tensor in kept)
        assert walker.reuse.nbytes == sum(tensor.untyped_storage().nbytes() for tensor in kept)


def test_a_call_that_fails_has_changed_nothing(monkeypatch):
    model = architecture("sd1")
    walkers, cache = [Walker((RED,), 1, ALWAYS), Walker((GREEN,), 2, 1e-9)], StepCache(model)
    for walker in walkers:
        walker.begin(model)
    with torch.inference_mode():
        step(cache, walkers)
        before = [(walker.reuse, walker.reuse.change.clone(), walker.reuse.deep.clone()) for walker in walkers]
        parts = cache._parts
        with monkeypatch.context() as patched:
            patched.setattr(parts, "tail", lambda *_: (_ for _ in ()).throw(MemoryError))
            with pytest.raises(MemoryError):
                step(cache, walkers)
        for walker, (reuse, change, deep) in zip(walkers, before, strict=True):
            assert walker.reuse is reuse
            assert torch.equal(reuse.change, change)
            assert torch.equal(reuse.deep, deep)
        step(cache, walkers)
    assert [walker.reused for walker in walkers] == [[False, True], [False, False]]
