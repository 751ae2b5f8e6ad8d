"""What happens when a process dies, stalls or talks nonsense, with real processes."""

import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import zmq

from collodion.client import Finished, JobLost, JobState, Progress, Reattached
from collodion.v1 import generation_pb2, generation_pb2_grpc, job_pb2

SLOW = "--simulated-step-ms=1:20"


class Watching:
    """A job that is drawn in the background, and a way to wait until it has done some steps."""

    def __init__(self, pool: ThreadPoolExecutor, client: Any, steps: int) -> None:
        self.events: list[Any] = []
        self.result = pool.submit(
            client.generate, "a fox", steps=steps, seed=1, width=64, height=64, on_event=self.events.append
        )

    def steps(self) -> int:
        return max((event.step for event in list(self.events) if isinstance(event, Progress)), default=0)


def test_a_job_whose_worker_is_killed_starts_again_to_the_same_picture(
    stack: Any, eventually: Callable[..., Any]
) -> None:
    with stack.start_all(SLOW).client() as client, ThreadPoolExecutor(1) as pool:
        watching = Watching(pool, client, 60)
        eventually(lambda: watching.steps() >= 5, "the job runs")
        stack.kill("worker-0")
        stack.start("worker-0", SLOW)
        disturbed = watching.result.result(60)
        alone = client.generate("a fox", steps=60, seed=1, width=64, height=64)
    assert disturbed.images[0].pil.tobytes() == alone.images[0].pil.tobytes()


def test_the_jobs_of_a_killed_worker_go_on_at_another_one(stack: Any, eventually: Callable[..., Any]) -> None:
    stack.start_all(SLOW)
    stack.start("worker-1", SLOW)
    with stack.client() as client, ThreadPoolExecutor(4) as pool:
        eventually(lambda: client.model("simulated").workers == 2, "both workers are known")
        watched = [Watching(pool, client, 40) for _ in range(4)]
        eventually(lambda: all(one.steps() >= 3 for one in watched), "all of them run")
        stack.kill("worker-0")
        pictures = {one.result.result(60).images[0].pil.tobytes() for one in watched}
    assert len(pictures) == 1  # one prompt, one seed, whoever drew it and however often it began


def test_clients_of_a_killed_frontend_attach_again_and_lose_nothing(stack: Any, eventually: Callable[..., Any]) -> None:
    with stack.start_all(SLOW).client() as client, ThreadPoolExecutor(1) as pool:
        watching = Watching(pool, client, 60)
        eventually(lambda: watching.steps() >= 5, "the job runs")
        stack.kill("frontend-0")
        stack.start("frontend-0")
        result = watching.result.result(60)
    assert len(result.images) == 1
    assert any(isinstance(event, Reattached) for event in watching.events)
    assert isinstance(watching.events[-1], Finished)


def test_after_a_killed_scheduler_watchers_are_told_and_everybody_finds_the_new_one(
    stack: Any, eventually: Callable[..., Any]
) -> None:
    with stack.start_all(SLOW).client() as client, ThreadPoolExecutor(1) as pool:
        watching = Watching(pool, client, 150)
        eventually(lambda: watching.steps() >= 5, "the job runs")
        stack.kill("scheduler")
        stack.start("scheduler")
        with pytest.raises(JobLost):
            watching.result.result(60)
        eventually(client.models, "the worker and the frontend found the new scheduler")
        assert len(client.generate("a fox", steps=2, width=64, height=64).images) == 1


def test_garbage_on_every_socket_changes_nothing(stack: Any, eventually: Callable[..., Any]) -> None:
    noise = random.Random(1)
    with stack.start_all().client() as client:
        _shout_at_the_scheduler(stack, noise)
        addresses = [stack.address] + [
            _metrics_address(stack, name) for name in ("scheduler", "frontend-0", "worker-0")
        ]
        for address in addresses:
            with socket.create_connection(address.rsplit(":", 1), timeout=10) as connection:
                connection.sendall(noise.randbytes(4096))
        eventually(lambda: _decode_errors(stack) >= 200, "the garbage was heard and counted")
        assert len(client.generate("a fox", steps=2, width=64, height=64).images) == 1


def test_a_reader_that_never_reads_delays_nobody(stack: Any, eventually: Callable[..., Any]) -> None:
    with stack.start_all().client() as client, grpc.insecure_channel(stack.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        parameters = job_pb2.Parameters(prompt="x", steps=100, images=4, width=256, height=256)
        job = generation_pb2.JobRequest(parameters=parameters, preview_interval=1)
        deaf = [stub.Generate(generation_pb2.GenerateRequest(job=job)) for _ in range(4)]
        eventually(lambda: len(list(client.list())) == 4, "their jobs are accepted")
        assert len(client.generate("a fox", steps=2, width=64, height=64).images) == 1
        ended = [JobState.FINISHED]
        eventually(lambda: len(list(client.list(states=ended))) == 5, "the jobs of the deaf end too", 60)
        for call in deaf:
            images = [response.event.image.image.index for response in call if response.event.HasField("image")]
            assert sorted(images) == [0, 1, 2, 3]  # what was coalesced is progress, never a picture


def test_a_draining_frontend_finishes_its_streams_and_takes_no_more(stack: Any, eventually: Callable[..., Any]) -> None:
    with stack.start_all(SLOW).client() as client, ThreadPoolExecutor(2) as pool:
        watching = Watching(pool, client, 60)
        eventually(lambda: watching.steps() >= 3, "the job runs")
        ending = pool.submit(stack.terminate, "frontend-0")
        assert len(watching.result.result(30).images) == 1
        assert ending.result(30) == 0


def _shout_at_the_scheduler(stack: Any, noise: random.Random) -> None:
    context = zmq.Context()
    for peer in ("frontend", "worker"):
        shouting = context.socket(zmq.DEALER)
        shouting.connect(f"ipc://{stack.run_dir}/{peer}.sock")
        for _ in range(100):
            shouting.send_multipart([noise.randbytes(noise.randint(0, 200)) for _ in range(noise.randint(1, 4))])
        shouting.close(linger=5000)
    context.term()


def _metrics_address(stack: Any, name: str) -> str:
    from collodion.process.running import announcement

    return (announcement(stack.run_dir, name) or {})["metrics"]


def _decode_errors(stack: Any) -> float:
    samples = stack.metrics("scheduler").items()
    return sum(value for name, value in samples if "decode_errors_total" in name)
