"""The calls that wait for the scheduler: questions for one answer, watches for events until the end.

A watch is named in the beats for as long as it is registered here. Once its end or a refusal has arrived it is not, and there is
nothing left to leave.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable

from collodion.frontend import convert
from collodion.frontend.errors import CallError, refused
from collodion.frontend.mailbox import Mailbox
from collodion.frontend.metrics import Metrics
from collodion.v1 import job_pb2
from collodion.wire.jobs import Parameters, Reason
from collodion.wire.to_frontend import Accepted, CounterOffer, JobAnswer, JobEvent, JobsAnswer, ModelAnswer, Refused

Answer = JobAnswer | JobsAnswer | ModelAnswer
_log = logging.getLogger(__name__)


class Watch:
    """One stream that watches a job. `resource` is the kind and name of what it is about, for errors."""

    def __init__(self, call: int, resource: tuple[str, str], mailbox: Mailbox) -> None:
        self.call = call
        self.resource = resource
        self.mailbox = mailbox
        self.opened = asyncio.get_running_loop().time()
        self.timeout: asyncio.TimerHandle | None = None
        self.job = ""  # until it is accepted
        self.parameters: Parameters | None = None

    def answered(self) -> None:
        """The scheduler has reacted: it need not hurry any more."""
        if self.timeout is not None:
            self.timeout.cancel()
            self.timeout = None


class Question:
    """One call that waits for one answer."""

    def __init__(self, call: int, resource: tuple[str, str]) -> None:
        self.call = call
        self.resource = resource
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()


class Calls:
    """All calls that are open, by number."""

    def __init__(self, metrics: Metrics, mailbox_events: int, coalesce: bool) -> None:
        self._metrics = metrics
        self._mailbox_events = mailbox_events
        self._coalesce = coalesce
        self._numbers = itertools.count(1)
        self._watches: dict[int, Watch] = {}
        self._questions: dict[int, Question] = {}

    def watch(self, resource: tuple[str, str]) -> Watch:
        """Registers a watch."""
        watch = Watch(next(self._numbers), resource, Mailbox(self._mailbox_events, self._coalesce))
        self._watches[watch.call] = watch
        return watch

    def ask(self, resource: tuple[str, str]) -> Question:
        """Registers a question."""
        question = Question(next(self._numbers), resource)
        self._questions[question.call] = question
        return question

    def forget(self, call: int) -> bool:
        """Whether the call was still registered; it is not any more."""
        watch = self._watches.pop(call, None)
        if watch is not None:
            watch.answered()
        return watch is not None or self._questions.pop(call, None) is not None

    def watching(self) -> dict[int, str]:
        """Every watch that is open and its job; no job yet for what is not accepted."""
        return {call: watch.job for call, watch in self._watches.items()}

    def answer(self, answer: Answer) -> None:
        """The answer to a question."""
        question = self._questions.pop(answer.call, None)
        if question is not None and not question.answer.done():
            question.answer.set_result(answer)

    def refuse(self, answer: Refused) -> None:
        """A call is answered by an error, or its stream ends with one."""
        waiting = self._watches.get(answer.call) or self._questions.get(answer.call)
        if waiting is not None:
            error = refused(
                answer.reason, answer.message, answer.retry_after_s, waiting.resource, *_offers(answer.offer)
            )
            self._fail(answer.call, error)

    def event(self, event: JobEvent, opaque: bytes) -> None:
        """What happened, to every stream that it is for; converted once."""
        try:
            item = convert.item(event, opaque)
        except (ValueError, OverflowError):
            _log.exception("an event cannot be told to clients", extra={"job": event.job})
            self._fail_these(event.calls, CallError(Reason.INTERNAL, "an event of the job could not be converted"))
            return
        for call in event.calls:
            watch = self._watches.get(call)
            if watch is None:
                continue  # it left a moment ago
            if type(event.event) is Accepted:
                self._accepted(watch, event.event)
            gave_way = watch.mailbox.put(item)
            if gave_way is not None:
                self._metrics.events_coalesced[gave_way.kind].inc()
            if item.last:
                self.forget(call)

    def fail_all(self, error: CallError) -> None:
        """Every call ends with `error`."""
        self._fail_these([*self._watches, *self._questions], error)

    def _accepted(self, watch: Watch, accepted: Accepted) -> None:
        watch.answered()
        watch.job = accepted.view.job
        watch.parameters = accepted.view.spec.parameters
        self._metrics.accepted_seconds.observe(asyncio.get_running_loop().time() - watch.opened)
        _log.info("watching", extra={"job": watch.job, "call": watch.call})

    def _fail_these(self, calls: Iterable[int], error: CallError) -> None:
        for call in calls:
            self._fail(call, error)

    def _fail(self, call: int, error: CallError) -> None:
        watch = self._watches.get(call)
        if watch is not None:
            watch.mailbox.fail(error)
        question = self._questions.get(call)
        if question is not None and not question.answer.done():
            question.answer.set_exception(error)
        self.forget(call)


def _offers(offer: CounterOffer | None) -> list[job_pb2.CounterOffer]:
    try:
        return [convert.counter_offer(offer, time.time())] if offer else []
    except (ValueError, OverflowError):  # a refusal without its offer is better than no answer
        _log.exception("a counter-offer cannot be told to clients")
        return []
