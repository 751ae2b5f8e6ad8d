"""The frontend as a process: signals, ports, and many readers that have stalled."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from collodion.frontend.config import Config
from collodion.process.running import announcement
from collodion.v1 import generation_pb2 as pb
from collodion.v1 import generation_pb2_grpc
from collodion.wire import jobs, to_frontend, to_scheduler
from collodion.wire.artifacts import DirectoryStore

BOUND_S = 20.0
FINISHED = to_frontend.Ended(jobs.JobState.FINISHED, to_frontend.Timings(0.5, 1.0, 0.0, 1.5))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline, "not within its bound"
        time.sleep(0.01)  # between two looks at another process, which has no event to offer


def to_flags(config: Config) -> list[str]:
    values = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    return [f"--{name.replace('_', '-')}={value}" for name, value in values]


class Process:
    """One frontend process that has announced itself."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.process = subprocess.Popen([sys.executable, "-m", "collodion.frontend", *to_flags(config)])
        wait_for(lambda: announcement(config.run_dir, config.name) is not None)
        self.address = (announcement(config.run_dir, config.name) or {})["grpc"]

    def wait_for_withdrawal(self) -> None:
        """Until it has taken back its announcement: the first signal has arrived."""
        wait_for(lambda: announcement(self.config.run_dir, self.config.name) is None)

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture
def launch(config: Config) -> Iterator[Callable[..., Process]]:
    launched: list[Process] = []

    def launch(**changes: object) -> Process:
        launched.append(Process(dataclasses.replace(config, **changes)))
        return launched[-1]

    yield launch
    for one in launched:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait(BOUND_S)


def generate(channel: grpc.Channel):
    return generation_pb2_grpc.GenerationServiceStub(channel).Generate(pb.GenerateRequest(), timeout=60)


def test_sigterm_lets_streams_finish_and_ends_with_zero(launch, scheduler) -> None:
    frontend = launch()
    with frontend.channel() as channel:
        scheduler.meet(channel)
        stream = generate(channel)
        call = scheduler.accept(scheduler.submitted())
        next(stream)
        frontend.process.send_signal(signal.SIGTERM)
        frontend.wait_for_withdrawal()
        with pytest.raises(grpc.RpcError) as refused:
            next(generate(channel))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        scheduler.tell(call, FINISHED)
        assert [response.event.WhichOneof("event") for response in stream] == ["finished"]
    assert frontend.process.wait(BOUND_S) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once_and_hangs_up(launch, scheduler, second) -> None:
    frontend = launch()
    with frontend.channel() as channel:
        scheduler.meet(channel)
        stream = generate(channel)
        call = scheduler.accept(scheduler.submitted())
        next(stream)
        frontend.process.send_signal(signal.SIGINT)
        frontend.wait_for_withdrawal()
        frontend.process.send_signal(second)
        assert scheduler.hear() == to_scheduler.LeaveJob(call)
        with pytest.raises(grpc.RpcError):
            list(stream)
    assert frontend.process.wait(BOUND_S) == 0


def test_a_port_that_is_taken_ends_it_with_two(launch, config, scheduler) -> None:
    first = launch()
    flags = to_flags(dataclasses.replace(config, listen=first.address, name="frontend-1"))
    done = subprocess.run([sys.executable, "-m", "collodion.frontend", *flags], capture_output=True, timeout=BOUND_S)
    assert done.returncode == 2
    assert b"listen" in done.stderr


def test_a_log_level_that_is_none_ends_it_with_two(config) -> None:
    flags = [*to_flags(config), "--log-level=loud"]
    done = subprocess.run([sys.executable, "-m", "collodion.frontend", *flags], capture_output=True, timeout=BOUND_S)
    assert done.returncode == 2
    assert b"--log-level: 'loud' is not one of debug, info, warning, error" in done.stderr


def test_a_unix_socket_is_announced_as_the_address_to_call(launch, config, scheduler) -> None:
    with launch(listen=f"unix:{config.run_dir}/grpc.sock").channel() as channel:
        scheduler.meet(channel)


def test_two_frontends_may_share_a_port(launch, scheduler) -> None:
    first = launch(reuse_port=True)
    second = launch(reuse_port=True, listen=first.address, name="frontend-1")
    assert first.address == second.address


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize(("size", "previews"), [(30_000, 50), (1_000_000, 0), (3_000_000, 50)])
def test_readers_that_stall_cost_little_memory_and_delay_nobody(launch, scheduler, config, size, previews) -> None:
    """A hundred may cost 32 MB, be it at a preview or at a picture that they stall: 12 MB in all, and 0.2 MB for each of these 40."""
    readers = 40
    frontend = launch(log_level="warning")
    DirectoryStore(config.artifacts).put("job/0.png", b"p" * size)
    stored = [jobs.StoredImage(index, index, "job/0.png", "image/png", 8, 8, size, "0") for index in range(16)]
    with contextlib.ExitStack() as channels:
        stubs = [channels.enter_context(frontend.channel()) for _ in range(readers + 1)]
        scheduler.meet(stubs[-1])
        quick = generate(stubs.pop())
        quick_call = scheduler.accept(scheduler.submitted())
        next(quick)
        before = resident_bytes(frontend.process.pid)
        streams = [generate(channel) for channel in stubs]
        calls = tuple(scheduler.accept(scheduler.submitted()) for _ in streams)
        for step in range(previews):
            scheduler.say(to_frontend.JobEvent(calls, "job-1", 1.0, to_frontend.Progressed(0, step, 50)))
            preview = to_frontend.Previewed(0, step, "image/webp")
            for call in calls:  # each of its own, as of as many jobs
                scheduler.tell(call, preview, bytes(6_000))
        for image in stored:
            scheduler.say(to_frontend.JobEvent(calls, "job-1", 1.0, to_frontend.ImageStored(image)))
        scheduler.say(to_frontend.JobEvent(calls, "job-1", 1.0, FINISHED))
        for index in range(20):
            scheduler.tell(quick_call, to_frontend.ImageStored(stored[index % 16]))
        scheduler.tell(quick_call, FINISHED)
        assert [response.event.WhichOneof("event") for response in quick][-1] == "finished"
        cost = resident_bytes(frontend.process.pid) - before
        assert cost < 12_000_000 + readers * 200_000
        images = [response.event.image.image.index for response in streams[0] if response.event.HasField("image")]
        assert images == list(range(16))
