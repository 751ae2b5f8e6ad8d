"""Texts that were encoded before: what makes two prompts the same, what is kept, and that nobody can spoil them."""

import pytest
import torch

from collodion.wire.jobs import AdapterKind, Parameters
from collodion.worker.adapters.loaded import LoadedAdapter
from collodion.worker.families.architecture import Prompt, collate
from collodion.worker.families.denoising import Conditioning
from collodion.worker.families.text_cache import TextCache
from collodion.worker.prompting.chunks import Chunk, Insert
from collodion.worker.prompting.reading import ReadPrompt
from collodion.worker.registry.sources import WeightFile

TEXT_BYTES = 4 * 8 * 4  # of what `Encoder` makes


class Encoder:
    """Makes numbers of a prompt's text, in one batch, and notes what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts):
        self.asked.append([prompt.text for prompt in prompts])
        batch = torch.stack([torch.full((4, 8), float(len(prompt.text))) for prompt in prompts])
        return [{"states": row} for row in batch]


def prompts(*texts):
    return [Prompt(text, False) for text in texts]


class Counting(TextCache):
    def __init__(self, budget_bytes):
        super().__init__(budget_bytes, self.count)
        self.hits = self.misses = 0

    def count(self, encoded, cached):
        self.misses += encoded
        self.hits += cached


def cache_of(entries):
    return Counting(entries * (TEXT_BYTES + 2048))


def test_a_prompt_is_encoded_once_and_all_that_are_missing_in_one_call():
    cache, encoder = cache_of(10), Encoder()
    cache.texts_of(prompts("a", "bb"), encoder)
    texts = cache.texts_of(prompts("ccc", "a", "dddd", "bb"), encoder)
    assert encoder.asked == [["a", "bb"], ["ccc", "dddd"]]
    assert [(prompt.text, float(one["states"][0, 0])) for prompt, one in texts.items()] == [
        ("ccc", 3),
        ("a", 1),
        ("dddd", 4),
        ("bb", 2),
    ]
    assert (cache.hits, cache.misses) == (2, 4)


def test_nothing_is_encoded_if_everything_is_known():
    cache, encoder = cache_of(10), Encoder()
    first = cache.texts_of(prompts("a"), encoder)
    again = cache.texts_of(prompts("a"), encoder)
    assert len(encoder.asked) == 1
    assert next(iter(again.values()))["states"] is next(iter(first.values()))["states"]


def test_the_one_that_was_not_used_for_longest_goes_first_and_the_budget_holds():
    cache, encoder = cache_of(2), Encoder()
    for text in ("a", "bb", "a", "ccc"):
        cache.texts_of(prompts(text), encoder)
        assert cache.nbytes <= 2 * (TEXT_BYTES + 2048)
    cache.texts_of(prompts("a"), encoder)
    cache.texts_of(prompts("bb"), encoder)
    assert encoder.asked == [["a"], ["bb"], ["ccc"], ["bb"]]
    assert len(cache) == 2


def test_what_is_larger_than_the_budget_is_encoded_and_not_kept():
    for cache in (Counting(0), Counting(TEXT_BYTES)):
        encoder = Encoder()
        for _ in range(2):
            assert len(cache.texts_of(prompts("a"), encoder)) == 1
        assert len(encoder.asked) == 2
        assert (len(cache), cache.nbytes) == (0, 0)


def test_nothing_of_a_batch_is_kept_in_memory_but_the_texts():
    cache = cache_of(10)
    (texts, _) = cache.texts_of(prompts("a", "bb"), Encoder()).values()
    assert texts["states"].untyped_storage().nbytes() == TEXT_BYTES


def test_an_encoding_that_fails_changes_nothing():
    cache, encoder = cache_of(10), Encoder()
    cache.texts_of(prompts("a"), encoder)

    def fails(_):
        raise MemoryError

    with pytest.raises(MemoryError):
        cache.texts_of(prompts("a", "bb"), fails)
    assert (cache.hits, cache.misses, len(cache)) == (0, 1, 1)


def test_when_it_is_cleared_everything_is_encoded_anew():
    cache, encoder = cache_of(10), Encoder()
    cache.texts_of(prompts("a"), encoder)
    cache.clear()
    assert (cache.nbytes, len(cache)) == (0, 0)
    cache.texts_of(prompts("a"), encoder)
    assert len(encoder.asked) == 2


def chunk(*, ids=(1, 2, 3), weights=(), inserts=()):
    return Chunk(ids, 3, inserts, weights)


def adapter(name, tmp_path, modified_ns=1):
    return LoadedAdapter(WeightFile(tmp_path / name, 10, modified_ns), next(iter(AdapterKind)), (), {})


def test_all_that_determines_texts_tells_them_apart(tmp_path):
    ink, changed_ink = adapter("ink", tmp_path), adapter("ink", tmp_path, modified_ns=2)
    embedding, other = (Insert(1, digest, torch.zeros(1, 4)) for digest in ("x", "y"))
    different = [
        Prompt("a", False),
        Prompt("b", False),
        Prompt("a", True),
        Prompt("a", False, ReadPrompt(((chunk(),),))),
        Prompt("a", False, ReadPrompt(((chunk(ids=(1, 5, 3)),),))),
        Prompt("a", False, ReadPrompt(((chunk(), chunk()),))),
        Prompt("a", False, ReadPrompt(((chunk(),), (chunk(),)))),
        Prompt("a", False, ReadPrompt(((chunk(weights=(1.0, 1.1, 1.0)),),))),
        Prompt("a", False, ReadPrompt(((chunk(weights=(1.0, 1.2, 1.0)),),))),
        Prompt("a", False, ReadPrompt(((chunk(inserts=(embedding,)),),))),
        Prompt("a", False, ReadPrompt(((chunk(inserts=(other,)),),))),
        Prompt("a", False, uses=(ink.at(1.0),)),
        Prompt("a", False, uses=(ink.at(0.5),)),
        Prompt("a", False, uses=(changed_ink.at(1.0),)),
        Prompt("a", False, uses=(ink.at(1.0), ink.at(1.0))),
    ]
    cache, encoder = cache_of(100), Encoder()
    for prompt in different:
        cache.texts_of([prompt], encoder)
    assert (cache.hits, cache.misses) == (0, len(different))
    cache.texts_of([Prompt("a", False, uses=(ink.at(0.5),))], encoder)  # another use of it, as strong
    assert cache.hits == 1


def test_a_cached_text_keeps_no_adapter_in_memory(tmp_path):
    ink = adapter("ink", tmp_path)
    cache = cache_of(10)
    cache.texts_of([Prompt("a", False, uses=(ink.at(1.0),))], Encoder())
    assert len(cache) == 1
    assert not ink.held


def test_who_moves_a_jobs_texts_leaves_the_cached_ones_and_those_of_other_jobs():
    cache, (prompt,) = cache_of(10), prompts("a")
    jobs = [Conditioning([cache.texts_of([prompt], Encoder())[prompt]]) for _ in range(2)]
    kept = cache.texts_of([prompt], Encoder())[prompt]
    assert jobs[0].texts[0]["states"] is jobs[1].texts[0]["states"] is kept["states"]
    jobs[0].move(torch.clone)  # as to another device
    jobs[0].texts[0]["states"].zero_()
    for texts in (jobs[1].texts[0], cache.texts_of([prompt], Encoder())[prompt]):
        assert texts["states"] is kept["states"]
        assert bool((texts["states"] == 1).all())


def test_rows_of_a_model_call_are_copies_whatever_their_number():
    cache, (prompt,) = cache_of(10), prompts("a")
    texts = cache.texts_of([prompt], Encoder())[prompt]
    for rows in (1, 2):
        collated = collate([texts] * rows, rows)["states"]
        assert collated.untyped_storage().data_ptr() != texts["states"].untyped_storage().data_ptr()


# ---------------------------------------------------------------------- in a pipeline


def texts_of(pipeline, *jobs):
    """The texts of these jobs, encoded together; and whether that took as long as it usually does."""
    plans = [pipeline.prepare(job) for job in jobs]
    encoded = pipeline.encode(plans)
    return [one.texts for one in encoded.conditioning], encoded.whole


def job(model, prompt, negative="blue"):
    return Parameters(model, prompt, negative, 64, 64, 2, "euler", 5.0, 1, 1)


def off(ours, expected):
    """The largest relative difference of two jobs' texts."""
    pairs = [(one[name], other[name]) for one, other in zip(ours, expected, strict=True) for name in (*one, *other)]
    return max(float((one - other).abs().max() / other.abs().max().clamp_min(1e-9)) for one, other in pairs)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd35", "flux_dev", "qwen_image", "z_image"])
def test_cached_texts_are_those_that_would_be_encoded(name, load_family):
    cached, fresh = load_family(name, text_cache_mib=64), load_family(name)
    jobs = [job(name, "a red circle"), job(name, "two small green squares")]
    first, whole = texts_of(cached, *jobs)
    assert whole
    again, whole = texts_of(cached, jobs[1])
    assert not whole
    for ours, expected in ((first[0], jobs[0]), (first[1], jobs[1]), (again[0], jobs[1])):
        assert off(ours, texts_of(fresh, expected)[0][0]) < 1e-4
    assert texts_of(fresh, jobs[0])[1]


def test_a_reproducible_workers_cached_texts_are_bit_for_bit_those_that_would_be_encoded(load_family):
    cached, fresh = (load_family("sdxl", reproducible=True, text_cache_mib=mib) for mib in (64, 0))
    jobs = [job("sdxl", text) for text in ("a red circle", "two small green squares", "many more")]
    texts_of(cached, jobs[1])
    ours, expected = texts_of(cached, *jobs)[0], texts_of(fresh, *jobs)[0]
    for one, other in zip(ours, expected, strict=True):
        assert off(one, other) == 0


def test_a_job_of_which_only_the_negative_prompt_is_known_takes_as_long_as_usual(load_family):
    pipeline = load_family("sd1", text_cache_mib=8)
    texts_of(pipeline, job("sd1", "a"))
    assert texts_of(pipeline, job("sd1", "b"))[1]
    assert not texts_of(pipeline, job("sd1", "c"), job("sd1", "b"))[1]
