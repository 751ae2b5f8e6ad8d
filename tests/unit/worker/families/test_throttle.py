"""How much decoding may slow the steps that it goes on beside. Steps and pieces are played; nothing here takes time."""

import random

import pytest

from collodion.worker.families.throttle import Throttle


class Device:
    """Steps of `alone` seconds, each `slowdown` longer beside a piece; a piece takes so much device time of its own."""

    def __init__(self, throttle, slowdown, alone=0.01, piece=0.03, noise=0.0, lag=2):
        self.throttle, self.slowdown, self.alone, self.piece = throttle, slowdown, alone, piece
        self.random = random.Random(1)
        self.noise, self.lag = noise, lag
        self.untold = []
        self.left = 0.0  # of the piece that is under way
        self.over_at = None  # so many steps have to be told before it counts as over
        self.issued = self.told = self.pieces = 0
        self.spent = self.spent_alone = 0.0

    def step(self):
        beside = self.left > 0
        seconds = self.alone * (1 + beside * self.slowdown) * (1 + self.noise * self.random.uniform(-1, 1))
        self.spent += seconds
        self.spent_alone += self.alone
        self.issued += 1
        self.untold.append((seconds, beside))
        if beside:
            self.left -= seconds
            if self.left <= 0:
                self.over_at = self.issued
        while len(self.untold) > self.lag:
            self.throttle.stepped("512x512/4", *self.untold.pop(0))
            self.told += 1
        if self.over_at is not None and self.told >= self.over_at:
            self.throttle.end()
            self.over_at = None

    def run(self, steps):
        """With always something to decode."""
        for _ in range(steps):
            if self.throttle.may_begin:
                self.throttle.begin()
                self.left = self.piece
                self.pieces += 1
            self.step()
        return self.spent / self.spent_alone - 1


@pytest.mark.parametrize("slowdown", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_steps_are_slowed_by_no_more_than_the_bound_on_the_average(slowdown, noise):
    device = Device(Throttle(0.1), slowdown, noise=noise)
    assert device.run(5_000) <= 0.1 + 0.01
    assert device.pieces > 10


@pytest.mark.parametrize("slowdown", [0.3, 1.0, 4.0])
def test_what_the_bound_allows_is_used(slowdown):
    assert Device(Throttle(0.1), slowdown).run(5_000) >= 0.07  # pieces begin at boundaries only


def test_a_piece_that_slows_nothing_is_followed_by_the_next_as_soon_as_that_is_known():
    device = Device(Throttle(0.1), slowdown=0.0, piece=0.03)
    device.run(600)
    assert device.pieces >= 600 / (3 + device.lag + 1) - 2  # three steps beside it, and those that are told late


def test_how_much_a_piece_slows_steps_is_learned_and_may_change():
    throttle = Throttle(0.1)
    device = Device(throttle, 0.5)
    device.run(2_000)
    assert throttle.slowdown == pytest.approx(0.5, rel=0.01)
    device.slowdown = 2.0
    before, before_alone = device.spent, device.spent_alone
    device.run(5_000)
    assert throttle.slowdown == pytest.approx(2.0, rel=0.01)
    assert (device.spent - before) / (device.spent_alone - before_alone) - 1 <= 0.11


def test_what_was_saved_up_while_nothing_was_decoded_pays_for_one_piece_and_no_more():
    throttle = Throttle(0.1)
    device = Device(throttle, 1.0)
    device.run(1_000)
    for _ in range(10_000):
        device.step()
    pieces = device.pieces
    device.run(60)
    assert device.pieces - pieces == 3  # at once; then each 10 % of a step pays for 1.5 steps of delay


def test_nothing_begins_before_a_step_was_seen_alone_nor_while_a_piece_is_under_way():
    throttle = Throttle(0.1)
    assert not throttle.may_begin
    throttle.stepped("key", 0.01, beside=False)
    assert throttle.may_begin
    throttle.begin()
    throttle.stepped("key", 0.01, beside=False)
    assert not throttle.may_begin
    throttle.end()
    assert throttle.may_begin


def test_a_kind_of_step_that_was_never_seen_alone_is_not_judged():
    throttle = Throttle(0.1)
    throttle.stepped("small", 0.01, beside=False)
    throttle.begin()
    throttle.stepped("large", 5.0, beside=True)
    throttle.end()
    assert throttle.slowdown is None
    assert throttle.may_begin


def test_pieces_that_had_to_begin_are_paid_for_all_the_same():
    throttle = Throttle(0.1)
    throttle.stepped("key", 0.01, beside=False)
    for _ in range(5):
        throttle.begin()
        throttle.stepped("key", 0.02, beside=True)
        throttle.end()
    assert not throttle.may_begin
    for _ in range(40):  # 5 x 0.01 s of delay, less what was earned; each step pays 0.001 s
        throttle.stepped("key", 0.01, beside=False)
        assert not throttle.may_begin
    for _ in range(20):
        throttle.stepped("key", 0.01, beside=False)
    assert throttle.may_begin


def test_it_remembers_only_so_many_kinds_of_step():
    throttle = Throttle(0.1)
    for key in range(10_000):
        throttle.stepped(key, 0.01, beside=False)
    assert len(throttle._alone) <= 256
