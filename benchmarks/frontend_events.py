"""Events through the frontend, beside a bare grpc.aio stream that sends the same bytes.

For 64 and 512 streams at once: open a stream, get `accepted`, 50 progress messages and `finished` on each, coalescing off. Server, client
and the scripted scheduler are processes of their own. The bare server has its bytes ready and does nothing but write
them, on uvloop too; both figures include opening the streams (for the frontend: validating, submitting, accepting). Runs alternate,
so that both see the same machine; a ratio is of two runs that follow each other.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop
import zmq

import common
from collodion.client import Client
from collodion.process.running import announced, announcement, endpoint
from collodion.v1 import generation_pb2, job_pb2
from collodion.wire import jobs, to_frontend
from collodion.wire.sockets import RouterSocket
from collodion.wire.to_scheduler import FromFrontend, FrontendBeat, SubmitJob
from collodion.wire.to_worker import SchedulerBeat

STREAMS = (64, 512)
STEPS = 50
EVENTS = STEPS + 2
PATH = "/collodion.v1.GenerationService/Generate"
MODEL = jobs.ModelInfo(
    "m",
    "simulated",
    64,
    64,
    64,
    64,
    8,
    STEPS,
    STEPS,
    "ddim",
    ("ddim",),
    default_guidance_scale=1.0,
    max_prompt_tokens=77,
    dtype="float32",
)
CATALOGUE = to_frontend.Catalogue(((MODEL, 1),), (to_frontend.TierInfo("standard"),), "m", "standard")
FINISHED = to_frontend.Ended(jobs.JobState.FINISHED, to_frontend.Timings(0.0, 1.0, 0.0, 1.0))


def main() -> None:
    """Runs the benchmark, or one of its processes."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each")
    parser.add_argument("--role", choices=("scheduler", "bare", "client"), help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role == "scheduler":
        feed(Path(asked.arguments[0]))
    elif asked.role == "bare":
        uvloop.run(serve_bare(Path(asked.arguments[0])))
    elif asked.role == "client":
        print(uvloop.run(read_streams(asked.arguments[0], int(asked.arguments[1]))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            common.report("frontend_events", measure(Path(folder), asked.runs), asked.json)


def measure(run_dir: Path, runs: int) -> dict[str, Any]:
    """Figures by number of streams."""
    frontend = ["-m", "collodion.frontend", f"--run-dir={run_dir}", f"--artifacts={run_dir}/artifacts"]
    frontend += ["--listen=127.0.0.1:0", "--metrics-port=0", "--coalesce=false"]
    with (
        process([__file__, "--role=scheduler", str(run_dir)]),
        process(frontend) as served,
        process([__file__, "--role=bare", str(run_dir)]) as bare,
    ):
        addresses = {name: address(run_dir, name) for name in ("frontend-0", "bare")}
        wait_for_models(addresses["frontend-0"])
        for name in addresses:
            one_run(served if name == "frontend-0" else bare, addresses[name], 64)  # warms up
        return {
            f"{streams} streams": compared(
                [
                    (one_run(served, addresses["frontend-0"], streams), one_run(bare, addresses["bare"], streams))
                    for _ in range(runs)
                ]
            )
            for streams in STREAMS
        }


def wait_for_models(server: str) -> None:
    """Returns when the frontend has heard of the scheduler's models."""
    with Client(server) as client:
        deadline = time.monotonic() + 30
        while not client.models() and time.monotonic() < deadline:
            time.sleep(0.05)


def compared(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    """Both, and the ratio of CPU an event."""
    figures: dict[str, Any] = {}
    for place, name in enumerate(("frontend", "bare grpc.aio")):
        figures[name] = {key: common.spread([pair[place][key] for pair in pairs]) for key in pairs[0][place]}
    ratios = [served["cpu_us_per_event"] / bare["cpu_us_per_event"] for served, bare in pairs]
    return figures | {"cpu_ratio": common.spread(ratios)}


def one_run(server: psutil.Process, address: str, streams: int) -> dict[str, float]:
    """One client that reads `streams` streams to their end."""
    before = sum(server.cpu_times()[:2])
    done = subprocess.run(
        [sys.executable, __file__, "--role=client", address, str(streams)], capture_output=True, text=True, check=True
    )
    cpu_s = sum(server.cpu_times()[:2]) - before
    events = streams * EVENTS
    return {"events_per_second": events / float(done.stdout), "cpu_us_per_event": cpu_s / events * 1e6}


async def read_streams(address: str, streams: int) -> float:
    """Seconds from the first call to the last event."""
    request = generation_pb2.GenerateRequest().SerializeToString()
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(8)
        ]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        started = time.perf_counter()
        counts = await asyncio.gather(*(_read(channels[number % 8], request) for number in range(streams)))
        seconds = time.perf_counter() - started
    assert set(counts) == {EVENTS}, f"events were lost or made: {set(counts)}"
    return seconds


async def _read(channel: grpc.aio.Channel, request: bytes) -> int:
    count = 0
    async for _ in channel.unary_stream(PATH, bytes, bytes)(request):
        count += 1
    return count


async def serve_bare(run_dir: Path) -> None:
    """A server that writes the same number of bytes and does nothing else."""
    message = generation_pb2.GenerateResponse(event=job_pb2.JobEvent(job_id="0" * 26))
    message.event.event_time.GetCurrentTime()
    message.event.progress.step, message.event.progress.steps = 25, STEPS
    data = message.SerializeToString()

    async def stream(_request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        for _ in range(EVENTS):
            await context.write(data)

    server = grpc.aio.server()
    handlers = {"Generate": grpc.unary_stream_rpc_method_handler(stream, bytes, bytes)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("collodion.v1.GenerationService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with announced(run_dir, "bare", grpc=f"127.0.0.1:{port}"):
        await server.wait_for_termination()


def feed(run_dir: Path) -> None:
    """A scheduler that accepts every job and sends its events at once, one message an event, round robin."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router: RouterSocket[FromFrontend] = RouterSocket(
        context, endpoint(run_dir, "frontend"), FromFrontend, lambda: None
    )
    running: dict[int, int] = {}  # call: steps told
    while True:
        router.socket.poll(0 if running else 1000)
        while (received := router.receive()) is not None:
            peer, message, _ = received
            if isinstance(message, FrontendBeat):
                router.send(peer, SchedulerBeat("s"))
                router.send(peer, CATALOGUE)
            elif isinstance(message, SubmitJob):
                tell(router, peer, message.call, to_frontend.Accepted(accepted(message)))
                running[message.call] = 0
        for call, step in list(running.items()):
            tell(router, peer, call, to_frontend.Progressed(0, step + 1, STEPS) if step < STEPS else FINISHED)
            running[call] = step + 1
            if step == STEPS:
                del running[call]


def accepted(submit: SubmitJob) -> to_frontend.JobView:
    """A job that has just begun."""
    progress = (to_frontend.ImageProgress(0, jobs.Stage.WAITING, 0, STEPS),)
    state = jobs.JobState.QUEUED
    return to_frontend.JobView(f"{submit.call:026}", submit.spec, state, time.time(), 0, progress, ())


def tell(router: "RouterSocket[FromFrontend]", peer: bytes, call: int, event: to_frontend.Event) -> None:
    """Sends an event, waiting for room."""
    message = to_frontend.JobEvent((call,), f"{call:026}", time.time(), event)
    while not router.send(peer, message):
        time.sleep(0.0005)  # a ROUTER cannot be polled for room at one peer


@contextlib.contextmanager
def process(arguments: list[str]) -> Iterator[psutil.Process]:
    """A Python process for as long as it is needed."""
    with subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL) as started:
        try:
            yield psutil.Process(started.pid)
        finally:
            started.kill()


def address(run_dir: Path, name: str) -> str:
    """Where a server listens, once it does."""
    deadline = time.monotonic() + 20
    while (said := announcement(run_dir, name)) is None:
        assert time.monotonic() < deadline, f"{name} did not start"
        time.sleep(0.02)
    return str(said["grpc"])


if __name__ == "__main__":
    main()
