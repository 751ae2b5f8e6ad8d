"""From a job's arrival at the scheduler to the start of its first evaluation, while a long job runs.

Read off the debug logs of both processes, which share the machine's clock. Given in step times (the median time of an evaluation of the
long job alone), with the time of the text encoding shown apart.
"""

import datetime
import random
import statistics
import time
from typing import Any

from rich.progress import track

from collodion.client import Client, Progress
from common import parser, report
from server import Server, running_server

JOINS = 200


def main() -> None:
    """Measures the simulated model (10 ms a step) and the embedded one."""
    arguments = parser(__doc__).parse_args()
    figures = {model: _measure(model) for model in ("simulated", "shapes")}
    report("join", figures, arguments.json)


def _measure(model: str) -> dict[str, float]:
    flags = (f"--model={model}", "--set=worker.simulated_step_ms=10", "--set=worker.threads=1")
    with running_server(*flags, log_level="debug") as server, Client(server.address) as client:
        job = client.generate("warm-up", steps=50, sampler="ddim")
        step_s = job.timings.running_s / 50
        moments = random.Random(1)
        for _ in track(range(JOINS), description=f"{model}: joining"):
            long = _start_long_job(client)
            time.sleep(moments.random() * step_s)  # arrivals fall anywhere within a step
            client.generate("short", steps=1, sampler="ddim")
            client.cancel(long)
        return _figures(server, step_s)


def _start_long_job(client: Client) -> str:
    """Submits it and returns when it has done two steps; nobody watches it from then on."""
    for event in client.stream("long", steps=50, sampler="ddim", detach=True):
        if isinstance(event, Progress) and event.step >= 2:
            return event.job_id
    raise RuntimeError("the long job ended before its second step")


def _figures(server: Server, step_s: float) -> dict[str, float]:
    lines = list(server.lines())
    arrived = times(lines, "accepted a job")
    began = times(lines, "first evaluation")
    encoding, encoded = times(lines, "encoding"), times(lines, "encoded")
    # Odd jobs after the warm-up are the short ones.
    short = sorted(arrived, key=arrived.__getitem__)[2::2]
    short = [job for job in short if job in began]
    waits = sorted((began[job] - arrived[job]) / step_s for job in short)
    encodes = [(encoded[job] - encoding[job]) / step_s for job in short]
    without = sorted((began[job] - arrived[job] - encoded[job] + encoding[job]) / step_s for job in short)
    return {
        "step, ms": step_s * 1000,
        "joins": len(short),
        "median, steps": statistics.median(waits),
        "p99, steps": waits[int(len(waits) * 0.99)],
        "text encoding, median, steps": statistics.median(encodes),
        "without text encoding: median, steps": statistics.median(without),
        "without text encoding: p99, steps": without[int(len(without) * 0.99)],
    }


def times(lines: list[dict[str, Any]], message: str) -> dict[str, float]:
    """When each job had its line with this message first (Unix seconds)."""
    found: dict[str, float] = {}
    for line in lines:
        if line["message"] == message:
            moment = datetime.datetime.fromisoformat(line["time"]).timestamp()
            for job in line.get("jobs") or [line["job"]]:
                found.setdefault(job, moment)
    return found


if __name__ == "__main__":
    main()
