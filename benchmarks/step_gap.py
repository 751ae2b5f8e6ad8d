"""How long the device waits between two model calls: simulated evaluations of 10 ms, 1 and 64 jobs, 1,000 batches each.

The worker is the real one, in a process of its own, with its link, heartbeats and reports; the scheduler is a script that wishes for
jobs and reads what comes. The gap is from the end of one model call to the start of the next, as the worker's device thread
measures it; a gap in which prompts are encoded or latents decoded is none. Goal: the median under 2 % of the step.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import zmq

from collodion.process.running import endpoint
from collodion.wire.jobs import LatentId, Parameters, Stage
from collodion.wire.sockets import RouterSocket
from collodion.wire.to_scheduler import FromWorker, WorkerReport, WorkerState
from collodion.wire.to_worker import JobOrder, Membership
from common import parser, report

STEP_MS = 10
STEPS = 150
JOBS = (1, 64)
SILENCE_MS = 30_000  # of a worker that is broken

# The worker as it is, but that it writes down every gap that it notes in its metrics.
_WORKER = """
import json, sys
from collodion.process.config import load
from collodion.worker.config import WorkerConfig
from collodion.worker.metrics import WorkerMetrics
from collodion.worker.process import run_worker
gaps, observe = [], WorkerMetrics.observe
def note(self, sample):
    observe(self, sample)
    if sample.gap_s is not None:
        gaps.append(sample.gap_s)
WorkerMetrics.observe = note
run_worker(load(WorkerConfig, "worker", sys.argv[1:]))
json.dump(gaps, sys.stdout)
"""


class Script:
    """A scheduler that keeps a number of long jobs running."""

    def __init__(self, router: RouterSocket[FromWorker], jobs: int) -> None:
        self._router = router
        self._jobs = [f"{number}" for number in range(jobs)]
        self._number = 0
        self.batches = 0

    def play(self, batches: int) -> None:
        """Until so many step batches were reported."""
        peer, state = self._hear(lambda said: isinstance(said, WorkerState))
        self._wish(peer, state.incarnation)
        while self.batches < batches:
            _, report = self._hear(lambda said: isinstance(said, WorkerReport))
            assert isinstance(report, WorkerReport)
            self.batches += sum(lane.lane == "step" for lane in report.lanes)
            if any(latent.stage is Stage.DONE for latent in report.latents):
                self._wish(peer, report.incarnation)

    def _wish(self, peer: bytes, worker: str) -> None:
        """All jobs anew, under names that were not used before."""
        self._number += 1
        self._jobs = [f"{job.split('.')[0]}.{self._number}" for job in self._jobs]
        latents = tuple(LatentId(job, 0) for job in self._jobs)
        orders = tuple(JobOrder(job=job, parameters=_parameters(seed)) for seed, job in enumerate(self._jobs))
        wish = Membership(scheduler="script", worker=worker, number=self._number, running=latents, orders=orders)
        assert self._router.send(peer, wish)

    def _hear(self, is_it: Callable[[FromWorker], bool]) -> tuple[bytes, FromWorker]:
        while self._router.socket.poll(SILENCE_MS):
            received = self._router.receive()
            if received is not None and is_it(received[1]):
                return received[0], received[1]
        raise RuntimeError("the worker is silent")


def _parameters(seed: int) -> Parameters:
    return Parameters(
        model="simulated",
        prompt="a gap",
        negative_prompt="",
        width=64,
        height=64,
        steps=STEPS,
        sampler="ddim",
        guidance_scale=1.0,
        seed=seed,
        images=1,
    )


def measure(jobs: int, batches: int) -> dict[str, float]:
    """Gaps over `batches` step batches of `jobs` latents."""
    with tempfile.TemporaryDirectory(prefix="gap") as folder:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        router: RouterSocket[FromWorker] = RouterSocket(
            context, endpoint(Path(folder), "worker"), FromWorker, lambda: None
        )
        flags = [f"--run-dir={folder}", f"--artifacts={folder}/artifacts", "--metrics-port=0", "--models=simulated"]
        flags += [f"--max-batch={jobs}", f"--simulated-step-ms={STEP_MS}", "--log-level=warning"]
        worker = subprocess.Popen([sys.executable, "-c", _WORKER, *flags], stdout=subprocess.PIPE)
        try:
            Script(router, jobs).play(batches)
        finally:
            worker.terminate()
            output, _ = worker.communicate()
            router.close()
            context.term()
    return _figures(json.loads(output)[:batches])


def _figures(gaps: list[float]) -> dict[str, float]:
    percentiles = statistics.quantiles(gaps, n=100)
    median, high = percentiles[49], percentiles[94]
    return {
        "gaps": len(gaps),
        "p50, µs": round(median * 1e6, 1),
        "p95, µs": round(high * 1e6, 1),
        "p50, % of the step": round(median / STEP_MS * 1e5, 2),
        "p95, % of the step": round(high / STEP_MS * 1e5, 2),
    }


def main() -> None:
    """Measures and prints."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--batches", type=int, default=1_000)
    chosen = arguments.parse_args()
    figures = {f"{jobs} jobs": measure(jobs, chosen.batches) for jobs in JOBS}
    report("step_gap", figures, chosen.json)


if __name__ == "__main__":
    main()
