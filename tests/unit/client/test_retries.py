"""When a call is made again, and when a silent stream is given up."""

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collodion.client.channel import Connection
from collodion.client.errors import (
    CollodionError,
    DeadlineInfeasible,
    Details,
    InvalidRequest,
    JobFailed,
    NotFound,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    TimedOut,
)
from collodion.client.retries import Retries, RetryPolicy, retryable
from collodion.client.silence import Silence, Verdict
from collodion.v1 import generation_pb2

AWAY = ServerUnavailable("away")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (AWAY, True),
        (ServerBusy("full", details=Details(retry_after_s=1)), True),
        (ServerBusy("full"), False),
        (DeadlineInfeasible("too soon", details=Details(retry_after_s=1)), False),
        (TimedOut("late", code=grpc.StatusCode.DEADLINE_EXCEEDED), False),
        (InvalidRequest("no"), False),
        (NotFound("no"), False),
        (ServerError("no"), False),
        (JobFailed("no", job_id="x"), False),
    ],
)
def test_only_what_the_api_names_is_tried_again(error: CollodionError, again: bool) -> None:
    assert retryable(error) is again


@settings(deadline=None)
@given(attempts=st.integers(1, 12), factor=st.floats(1, 4), longest_s=st.floats(0.1, 5))
def test_pauses_grow_within_their_bounds_and_attempts_end(attempts: int, factor: float, longest_s: float) -> None:
    policy = RetryPolicy(attempts=attempts, initial_s=0.1, factor=factor, longest_s=longest_s)
    retries = Retries(policy)
    for failed in range(attempts - 1):
        whole = min(0.1 * factor**failed, longest_s)
        assert whole / 2 <= retries.delay_s(AWAY) <= whole
    with pytest.raises(ServerUnavailable):
        retries.delay_s(AWAY)


def test_a_server_that_says_when_is_asked_no_earlier() -> None:
    assert Retries(RetryPolicy()).delay_s(ServerBusy("full", details=Details(retry_after_s=7))) == 7


def test_success_renews_the_attempts() -> None:
    retries = Retries(RetryPolicy(attempts=2))
    retries.delay_s(AWAY)
    retries.succeeded()
    retries.delay_s(AWAY)


def test_the_first_word_has_its_own_limit_and_later_silence_is_asked_about() -> None:
    silence = Silence(Connection(timeout_s=10, silence_s=30), now=0)
    assert (silence.verdict(9.9), silence.left_s(4)) == (Verdict.WAIT, 6)
    assert silence.verdict(10) is Verdict.GIVE_UP
    assert isinstance(silence.error(), TimedOut)
    silence.heard(9)
    assert silence.verdict(38) is Verdict.WAIT
    assert silence.verdict(39) is Verdict.ASK
    silence.asked(39)
    assert silence.verdict(68) is Verdict.WAIT
    assert not isinstance(silence.error(), TimedOut)


def test_what_takes_long_to_send_may_be_answered_later() -> None:
    silence = Silence(Connection(timeout_s=10, silence_s=30), now=0, sending_s=64)
    assert (silence.verdict(73), silence.verdict(74)) == (Verdict.WAIT, Verdict.GIVE_UP)
    silence.heard(1)
    assert silence.left_s(1) == 30
    request = generation_pb2.GenerateRequest(job={"parameters": {"init_image": bytes(16 << 20)}})
    assert Connection(timeout_s=10).answer_s(request) == pytest.approx(74, abs=0.1)
    assert Connection(timeout_s=None).answer_s(request) is None


def test_without_limits_silence_never_ends() -> None:
    silence = Silence(Connection(timeout_s=None, silence_s=None), now=0)
    assert silence.left_s(1e9) is None
    assert silence.verdict(1e9) is Verdict.WAIT


@pytest.mark.parametrize(
    ("server", "direct"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True), ("unix:/run/x", True), ("gpu7:50051", False)],
)
def test_loopback_is_never_sought_through_a_proxy(server: str, direct: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) in Connection(server).options) is direct
