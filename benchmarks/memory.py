"""Resident memory of each process at rest and after 1,000 jobs, with the simulated and with the embedded model.

And of the frontend with 100 clients that never read: each watches a job of 100 steps with a preview a step and a picture of 512 x 512.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from rich.progress import track

from collodion.client import Client, JobState
from collodion.v1 import generation_pb2, generation_pb2_grpc, job_pb2
from common import parser, report
from server import running_server

JOBS = 1000
DEAF = 100


def main() -> None:
    """Measures both models, each with a fresh server."""
    arguments = parser(__doc__).parse_args()
    figures: dict[str, Any] = {model: _measure(model) for model in ("simulated", "shapes")}
    figures[f"frontend, {DEAF} readers that never read, MiB more"] = _stalled_readers_mib()
    report("memory", figures, arguments.json)


def _measure(model: str) -> dict[str, dict[str, float]]:
    with running_server(f"--model={model}") as server, Client(server.address) as client:
        client.generate("warm-up", steps=2)
        at_rest = server.resident_mib()

        def draw(seed: int) -> None:
            client.generate("a red circle", steps=2, seed=seed, width=32, height=32, sampler="ddim")

        with ThreadPoolExecutor(16) as pool:
            for _ in track(pool.map(draw, range(JOBS)), description=f"{model}: {JOBS} jobs", total=JOBS):
                pass
        return {"at rest, MiB": at_rest, f"after {JOBS} jobs, MiB": server.resident_mib()}


def _stalled_readers_mib() -> float:
    with (
        running_server("--model=simulated") as server,
        Client(server.address) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        client.generate("warm-up", steps=2)
        before = server.resident_mib()["frontend-0"]
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        parameters = job_pb2.Parameters(prompt="never read", steps=100, width=512, height=512)
        job = generation_pb2.JobRequest(parameters=parameters, preview_interval=1, labels={"reader": "deaf"})
        deaf = [stub.Generate(generation_pb2.GenerateRequest(job=job)) for _ in range(DEAF)]
        while sum(1 for _ in client.list(states=[JobState.FINISHED], labels={"reader": "deaf"}, page_size=1000)) < len(
            deaf
        ):
            time.sleep(0.5)
        return server.resident_mib()["frontend-0"] - before


if __name__ == "__main__":
    main()
