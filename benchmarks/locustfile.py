"""The workloads of `simulate.py` and `load.py` for Locust, through the blocking client.

For example, with `collodion serve` running: locust -f benchmarks/locustfile.py --headless -u 20 -r 20 --host 127.0.0.1:50051 --steps 10-50
or, each request at its moment: … -u 100 -r 100 --costs profile.json:NAME --workload gamma --load 0.9 --slo-scale 3

1. A user takes the next request of the workload. With --load it waits for the request's moment (so have more users than requests are open
   at a time), without it sends it at once.
2. Locust is told twice of each request: `answer`, until it was accepted or refused; `pictures`, until they are there. Refused, failed and
   late ones count as failures, so that the successes a second are the goodput.
3. The test ends with the workload.
"""

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence

import grpc.experimental.gevent
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser

from collodion.client import Client, CollodionError
from collodion.wire.jobs import DeadlinePolicy
from loading.asking import PROMPT, Reply, Wish, undated
from simulation.fleets import Bounds, make_fleet
from simulation.instance import KeyCosts, Request
from simulation.ledger import Outcome, Record
from simulation.options import add_workload, loads_of, workload_of
from simulation.profiles import Profile, read_profile
from simulation.workloads import make_instance

grpc.experimental.gevent.init_gevent()  # before the first channel: Locust has replaced the threads that grpc waits in

_UNKNOWN = KeyCosts((0.001,), (0.001,), (0.001,))  # without --load and --slo-scale nobody asks what anything costs
_PATIENCE_S = 120.0


class NotOnTime(Exception):
    """What Locust counts as a failure: refused, failed, cancelled or late."""


class Study:
    """The requests of one test, handed out to whichever user is free. Times are seconds since it began."""

    def __init__(self, environment: Environment) -> None:
        options = environment.parsed_options
        assert options is not None
        self.client = Client(environment.host or "", timeout_s=_PATIENCE_S)
        self.wish = Wish(DeadlinePolicy(options.wish), options.min_steps, options.seed)
        self.paced = bool(options.load)
        requests = _requests(options)
        self.coming: Iterator[tuple[int, Request]] = enumerate(requests)
        self.left = len(requests)
        self._zero = time.monotonic()

    def now(self) -> float:
        """The time."""
        return time.monotonic() - self._zero


_studies: list[Study] = []
"""That of the test under way, last."""


def _requests(options: argparse.Namespace) -> Sequence[Request]:
    if options.costs is None and (options.load or options.slo_scale):
        raise SystemExit("--load and --slo-scale are relative to what the device costs: --costs FILE:NAME")
    known = read_profile(options.costs) if options.costs else Profile("device", options.model, {options.size: _UNKNOWN})
    profile = Profile(known.kind, options.model, known.sizes)
    workload = workload_of(options, options.model, max(profile.sizes))
    fleet = make_fleet([profile], [options.workers], workload.keys(), Bounds())
    load = loads_of(options, workload, fleet)[0]
    requests = make_instance(workload, fleet, load, (options.slo_scale or [1.0])[0], options.seed).requests
    return requests if options.slo_scale else undated(requests)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Collodion")
    group.add_argument("--model", default="shapes", help="that the server draws with (default: shapes)")
    group.add_argument("--size", type=int, default=32, help="of the pictures, in pixels, without --costs (default: 32)")
    group.add_argument("--costs", metavar="FILE:NAME", help="a profile, as `collodion profile` makes it")
    group.add_argument("--workers", type=int, default=1, help="that the server has, for the load (default: 1)")
    group.add_argument("--seed", type=int, default=1, help="default: 1")
    add_workload(group)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: Environment, **_: object) -> None:
    _studies.append(Study(environment))


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def _end(**_: object) -> None:
    _studies.pop().client.close()


class Painter(User):
    """Asks for pictures."""

    @task
    def ask(self) -> None:
        """One request of the workload, to its end."""
        study = _studies[-1]
        index, request = next(study.coming, (0, None))
        if request is None:
            raise StopUser
        if study.paced:
            time.sleep(max(0.0, request.release - study.now()))
        reply = Reply(request, Record(index, request.evaluations), study.now, sent=study.now())
        try:
            with contextlib.closing(study.client.stream(PROMPT, **study.wish.options(index, request))) as told:
                for event in told:
                    reply.hear(event)
        except CollodionError as error:
            reply.failed(error)
        self._tell(reply, study.now())
        study.left -= 1
        if not study.left and self.environment.runner is not None:
            self.environment.runner.quit()

    def _tell(self, reply: Reply, now: float) -> None:
        if reply.answer_s is not None:
            self._fire("answer", reply.answer_s, None)
        self._fire("pictures", now - reply.sent, _failure(reply))

    def _fire(self, name: str, seconds: float, failure: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=1000 * seconds,
            response_length=0,
            exception=failure,
            context={},
        )


def _failure(reply: Reply) -> Exception | None:
    record = reply.record
    if record.outcome is not Outcome.FINISHED:
        return NotOnTime(f"{record.outcome.value} {record.reason}".strip())
    return NotOnTime("late") if reply.request.slo_s is not None and not record.on_time else None
