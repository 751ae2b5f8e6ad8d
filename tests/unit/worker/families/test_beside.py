"""Decoding in pieces beside the steps, on a clock that is set by hand: what is issued when, and what a throttle is told of it."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from collodion.wire.jobs import Parameters
from collodion.worker.families.beside import BesideDecoder, PieceClock
from collodion.worker.families.device import Device


class Interval:
    """A span from one moment to another."""

    def __init__(self, began=None, ended=None):
        self.began, self.ended = began, ended

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def wait(self):
        return self.ended - self.began

    def gap_after(self, previous):
        return self.began - previous.ended


class Told:
    """In the place of a throttle."""

    def __init__(self):
        self.log = []

    def begin(self):
        self.log.append("begin")

    def stepped(self, key, seconds, beside):
        self.log.append((key, round(seconds, 3), beside))

    def end(self):
        self.log.append("end")


class Queue:
    """A lane: a piece takes 2 s from when it is issued, or from when the one before it is done."""

    def __init__(self):
        self.now, self.done_at = 0.0, 0.0
        self.read = []

    @contextmanager
    def issuing(self, latents):
        self.read.append(len(latents))
        yield

    def idle(self):
        return self.now >= self.done_at

    def span(self):
        began = max(self.now, self.done_at)
        self.done_at = began + 2.0
        return Interval(began, self.done_at)


def test_steps_during_which_a_piece_ran_are_told_apart_from_others():
    told, busy = Told(), [True]
    clock = PieceClock(told, lambda: not busy[0])
    clock.stepped("a", Interval(0, 1))
    clock.begin(Interval(1.5, 3.2))
    for second in range(1, 4):
        clock.stepped("a", Interval(second, second + 1))
    assert told.log == ["begin"]  # while the piece is under way nobody knows which steps it slows
    busy[0] = False
    for second in range(4, 9):
        clock.stepped("a", Interval(second, second + 1))
    beside = [("a", 1, True)] * 3
    assert told.log == ["begin", ("a", 1, False), *beside, ("a", 1, False), "end", *[("a", 1, False)] * 2]


def test_without_a_piece_a_step_is_told_when_two_newer_ones_were_issued():
    told = Told()
    clock = PieceClock(told, lambda: True)
    clock.stepped("a", Interval(0, 1))
    clock.stepped("b", Interval(1, 3))
    assert told.log == []
    clock.stepped("c", Interval(3, 4))
    assert told.log == [("a", 1, False)]


@pytest.fixture
def lane():
    return Queue()


@pytest.fixture
def decoder(lane):
    """Latents become pictures of one colour; one that is not finite stays so. A latent of two rows is decoded in two pieces."""

    def pieces(latents):
        for latent in latents.split(1):
            if latent.shape[2] > 1:
                yield None
            yield latent.expand(1, 3, -1, -1)

    def pixels(decoded):
        return decoded.nan_to_num().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    return BesideDecoder(pieces, pixels, Device(torch.device("cpu")), lane, 0.1)


def latents(*values, height=1):
    return [torch.full((1, height, 2), float(value)) for value in values]


def seen_alone(decoder):
    """A step, so that the throttle lets the first piece begin."""
    for second in range(-9, -5):
        decoder.stepped("a", Interval(second, second + 1))


def test_nothing_is_issued_until_somebody_brings_it_forward(decoder, lane):
    decoded = decoder.decode(latents(1, 2))
    assert lane.read == []
    assert not decoded.advance(False)  # no step was seen yet: nobody knows what a piece costs it
    assert lane.read == []


def test_a_piece_is_issued_when_the_last_is_done_and_the_throttle_agrees(decoder, lane):
    seen_alone(decoder)
    decoded = decoder.decode(latents(1, 2))
    assert not decoded.advance(False)
    assert not decoded.advance(False)
    assert lane.read == [2]
    lane.now = 2.0
    assert not decoded.advance(False)  # the steps beside it were not told yet
    assert lane.read == [2]
    for second in range(6):
        decoder.stepped("a", Interval(second, second + 1))
    assert not decoded.advance(False)
    assert lane.read == [2, 2]
    lane.now = 4.0
    assert decoded.advance(False)
    assert [int(picture[0, 0, 0]) for picture in decoded.pictures()] == [1, 2]


def test_in_a_hurry_all_the_rest_is_issued_at_once(decoder, lane):
    seen_alone(decoder)
    decoded = decoder.decode(latents(1, 2, 3, height=2))
    assert not decoded.advance(False)
    assert not decoded.advance(True)
    assert lane.read == [3, 3]
    lane.now = lane.done_at
    assert decoded.advance(True)
    assert lane.read == [3, 3]
    assert [picture.shape for picture in decoded.pictures()] == [(2, 2, 3)] * 3
    assert decoded.span.wait() == 4.0


def test_a_latent_that_is_not_finite_gives_no_picture_and_its_neighbours_do(decoder, lane):
    decoded = decoder.decode(latents(1, float("nan"), 3))
    assert decoded.wait() == 2.0
    first, lost, last = decoded.pictures()
    assert lost is None
    assert isinstance(first, np.ndarray)
    assert (int(first[0, 0, 0]), int(last[0, 0, 0])) == (1, 3)


class Unfinished(Interval):
    """One that was issued and, as CUDA's events do, knows of no gap before it was waited for."""

    waited = False

    def wait(self):
        self.waited = True
        return super().wait()

    def gap_after(self, previous):
        assert self.waited
        assert previous.waited
        return super().gap_after(previous)


def test_what_was_only_issued_is_waited_for_before_its_pauses_are_asked_for(decoder, lane, monkeypatch):
    monkeypatch.setattr(f"{__name__}.Interval", Unfinished)
    decoder.stepped("a", Unfinished(-9, -8))
    decoder.stepped("a", Unfinished(-8, -7))
    decoder.stepped("a", Unfinished(-7, -6))
    decoded = decoder.decode(latents(1, 2))
    decoded.advance(False)
    assert decoded.wait() == 4.0


def test_what_is_decoded_took_as_long_as_from_its_first_piece_to_its_last(decoder, lane):
    seen_alone(decoder)
    decoded = decoder.decode(latents(1, 2))
    decoded.advance(False)
    lane.now = 10.0
    decoded.advance(True)
    assert decoded.span.wait() == 12.0


def test_a_piece_that_raises_says_so_to_who_brought_it_forward(lane):
    def pieces(_):
        raise RuntimeError("can't allocate memory")
        yield

    decoder = BesideDecoder(pieces, lambda decoded: decoded, Device(torch.device("cpu")), lane, 0.1)
    with pytest.raises(MemoryError):
        decoder.decode(latents(1)).advance(True)


def test_it_says_how_much_longer_steps_may_take_and_do(decoder, lane):
    assert decoder.optimization.detail == "steps take 10% longer at most, on the average"
    seen_alone(decoder)
    decoder.decode(latents(1)).advance(False)
    lane.now = 2.0
    for second in range(0, 15, 3):
        decoder.stepped("a", Interval(second, second + (1.5 if second < 2 else 1)))
    assert decoder.optimization.detail.endswith("; beside a piece they take 50% longer")


def test_steps_are_of_one_kind_only_if_they_have_as_many_rows_and_reuse_as_much(load_family, monkeypatch):
    pipeline, kinds = load_family("sd1"), []
    monkeypatch.setattr(pipeline._decoder, "stepped", lambda kind, _: kinds.append(kind))

    def step(scale, step_cache=0.0):
        parameters = Parameters("sd1", "a circle", "", 64, 64, 4, "ddim", scale, 0, 1, step_cache=step_cache)
        plan = pipeline.prepare(parameters)
        state = pipeline.begin(plan, pipeline.encode([plan]).conditioning[0], 0)
        for _ in range(2):
            pipeline.step([state])

    for scale, step_cache in ((1.0, 0.0), (5.0, 0.0), (5.0, 1.0)):
        step(scale, step_cache)
    plain, again, guided, _, whole, reusing = kinds
    assert plain == again
    assert guided == whole
    assert len({plain, guided, reusing}) == 3
