"""Many models on one device: what it costs that they come and go.

1. From a request's acceptance to its first evaluation: of a model in memory, of one on disk with room for it, and of one that takes
   another's place. Read off the logs of a whole server; the embedded model under several names, each a copy of its own.
2. The running steps while a model is loaded and while one leaves: the time from one evaluation's end to the next one's (which is a step and
   the gap before it), the median of all and the longest while loading; for the embedded model, and for one of 0.8 GB.
3. An evaluation of two models in turns beside evaluations of one.
4. What a model takes of the worker's memory: copies, and folders that link to the same files; and what is left after many have left.

The files are in the page cache: a first load from a slow disk takes as long as that needs to read them.
"""

import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import zmq
from join import times
from rich.progress import track

from collodion.client import Client, Residency
from collodion.process.running import endpoint
from collodion.wire import jobs
from collodion.wire.jobs import LatentId, Parameters
from collodion.wire.sockets import RouterSocket
from collodion.wire.to_scheduler import FromWorker, WorkerState
from collodion.wire.to_worker import JobOrder, Membership, ResidencyWish
from collodion.worker.config import WorkerConfig
from collodion.worker.models import EMBEDDED, load_models
from common import parser, report, spread
from server import running_server

ROUNDS = 10
COPIES = ("a", "b", "c", "d")
STEPS = 150
QUIET_S = 2.0  # between two loads
SILENCE_MS = 60_000
_LARGE_LAYERS, _LARGE_WIDTH = 12, 65_536
_JOBS = 64

# The worker as it is, but that it writes down when it evaluated, encoded, decoded and loaded.
_WORKER = """
import json, sys, time
from collodion.process.config import load
from collodion.worker.config import WorkerConfig
from collodion.worker.families.latent_diffusion import LatentDiffusion
from collodion.worker.loader import Loader
from collodion.worker.process import run_worker
noted = {}
def note(kind, name):
    done = getattr(kind, name)
    def timed(self, *arguments):
        began = time.perf_counter()
        try:
            return done(self, *arguments)
        finally:
            noted.setdefault(name, []).append((began, time.perf_counter()))
    setattr(kind, name, timed)
for name in ("step", "encode", "decode", "close"):
    note(LatentDiffusion, name)
note(Loader, "load")
run_worker(load(WorkerConfig, "worker", sys.argv[1:]))
json.dump(noted, sys.stdout)
"""


def main() -> None:
    """Measures and prints."""
    arguments = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="models") as folder:
        shelf = Path(folder) / "models"
        for name in COPIES:
            shutil.copytree(EMBEDDED, shelf / name)
        figures: dict[str, Any] = {"request to first evaluation, ms": _first_evaluations(shelf)}
        large = _large_model(Path(folder) / "large")
        figures["evaluations while a model is loaded"] = {
            "embedded, 20 MiB": _pauses(f"other={EMBEDDED}"),
            "0.8 GB": _pauses(f"other={large}"),
        }
        figures["two models in turns"] = _in_turns()
        figures["memory of the worker, MiB"] = _memory(shelf)
    report("many_models", figures, arguments.json)


# ------------------------------------------------------------------ cold and warm


def _first_evaluations(shelf: Path) -> dict[str, dict[str, float]]:
    waits: dict[str, list[float]] = {"in memory": [], "on disk, with room": [], "in another's place": []}
    for room, kind in ((1000, "on disk, with room"), (30, "in another's place")):
        flags = (f"--models-dir={shelf}", "--set=worker.threads=1", f"--set=worker.model_mib={room}")
        with running_server(*flags, log_level="debug") as server, Client(server.address) as client:
            _wait_for(partial(_knows_all, client))
            asked: dict[str, str] = {}
            for turn in track(range(ROUNDS), description=kind):
                name = COPIES[turn % len(COPIES)]
                if room > 30 and turn >= len(COPIES):
                    client.unload_model(name)
                    _wait_for(partial(_is_on_disk, client, name))
                for cold in (kind, "in memory"):
                    asked[client.generate("x", model=name, steps=1).job.job_id] = cold
            lines = list(server.lines())
            accepted, began = times(lines, "accepted a job"), times(lines, "first evaluation")
            for job, kind_of in asked.items():
                waits[kind_of].append((began[job] - accepted[job]) * 1000)
    return {kind: spread(found) for kind, found in waits.items()}


def _knows_all(client: Client) -> bool:
    return len(client.models()) >= len(COPIES)


def _is_on_disk(client: Client, name: str) -> bool:
    return client.model(name).status.residency is Residency.ON_DISK


def _wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


# ------------------------------------------------------------------ the running steps


def _pauses(other: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cm") as folder:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        router: RouterSocket[FromWorker] = RouterSocket(
            context, endpoint(Path(folder), "worker"), FromWorker, lambda: None
        )
        flags = [f"--run-dir={folder}", f"--artifacts={folder}/artifacts", "--metrics-port=0", "--log-level=warning"]
        flags += ["--models=shapes", f"--on-demand={other}", "--threads=1", "--model-mib=0", "--max-batch=8"]
        worker = subprocess.Popen([sys.executable, "-c", _WORKER, *flags], stdout=subprocess.PIPE)
        try:
            _Script(router).play()
        finally:
            worker.terminate()
            output, _ = worker.communicate()
            router.close()
            context.term()
    return _intervals(json.loads(output))


def _intervals(noted: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """From one evaluation's end to the next one's, where nothing was encoded or decoded between."""
    ends = [end for _, end in noted["step"]]
    others = sorted(began for name in ("encode", "decode") for began, _ in noted.get(name, []))
    spans = [(first, second) for first, second in itertools.pairwise(ends) if not _any(others, first, second)]
    alone = [b - a for a, b in spans if not any(began < b and a < end for began, end in noted["load"])]
    beside = [[b - a for a, b in spans if began < b and a < end] for began, end in noted["load"]]
    leaving = [[b - a for a, b in spans if began < b and a < end] for began, end in noted.get("close", [])]
    median = statistics.median(alone)
    usual = round(statistics.median(len(each) for each in beside if each))
    stretches = [alone[at : at + usual] for at in range(0, len(alone) - usual + 1, usual)]
    return {
        "median, ms": median * 1000,
        "longest of as many, nothing loaded, medians": spread([max(each) / median for each in stretches]),
        "longest while loading, medians": spread([max(each) / median for each in beside if each]),
        "longest while one leaves, medians": spread([max(each) / median for each in leaving if each]),
        "median while loading, medians": statistics.median(one for each in beside for one in each) / median,
        "load, s": spread([end - began for began, end in noted["load"]]),
    }


def _any(moments: Sequence[float], after: float, before: float) -> bool:
    return any(after <= moment <= before for moment in moments)


class _Script:
    """A scheduler that keeps eight jobs running, and has a model loaded and dropped again and again."""

    def __init__(self, router: RouterSocket[FromWorker]) -> None:
        self._router = router
        self._number = 0
        self._peer = b""
        self._worker = ""

    def play(self) -> None:
        """So many loads."""
        self._hear(lambda _: True)
        for _ in track(range(ROUNDS), description="loading beside steps"):
            self._run()
            self._wish("shapes", "other")
            self._hear(lambda state: _where(state, "other") is jobs.Residency.RESIDENT)
            self._wish("shapes")
            self._hear(lambda state: _where(state, "other") is jobs.Residency.ON_DISK)
            until = time.monotonic() + QUIET_S
            while time.monotonic() < until:
                self._hear(lambda _: True)  # its beats

    def _run(self) -> None:
        """Jobs anew, eight at a time, more than can be done until the next time."""
        self._number += 1
        names = [LatentId(f"{self._number}.{job}", 0) for job in range(_JOBS)]
        orders = tuple(JobOrder(job=name.job, parameters=_parameters(seed)) for seed, name in enumerate(names))
        wish = Membership(
            scheduler="script", worker=self._worker, number=self._number, running=tuple(names), orders=orders
        )
        assert self._router.send(self._peer, wish)

    def _wish(self, *models: str) -> None:
        self._number += 1
        wish = ResidencyWish(scheduler="script", worker=self._worker, number=self._number, models=models)
        assert self._router.send(self._peer, wish)

    def _hear(self, is_it: Callable[[WorkerState], bool]) -> None:
        while self._router.socket.poll(SILENCE_MS):
            received = self._router.receive()
            if received is not None and isinstance(received[1], WorkerState):
                self._peer, self._worker = received[0], received[1].incarnation
                if is_it(received[1]):
                    return
        raise RuntimeError("the worker is silent")


def _where(state: WorkerState, model: str) -> jobs.Residency | None:
    return next((status.residency for status in state.statuses if status.name == model), None)


def _parameters(seed: int, model: str = "shapes") -> Parameters:
    return Parameters(model, "a red circle", "", 32, 32, STEPS, "ddim", 3.0, seed, 1)


def _large_model(folder: Path) -> Path:
    """The embedded model with a text encoder of 0.8 GB, of random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    shutil.copytree(EMBEDDED, folder)
    said = json.loads((folder / "text_encoder" / "config.json").read_text())
    said |= {"num_hidden_layers": _LARGE_LAYERS, "intermediate_size": _LARGE_WIDTH}
    CLIPTextModel(CLIPTextConfig(**said)).save_pretrained(folder / "text_encoder")
    return folder


# ------------------------------------------------------------------ in turns


def _in_turns() -> dict[str, Any]:
    """Four latents of each of two models: evaluated in turns, and one model's twice as often; which comes first changes every time."""
    settings = WorkerConfig(models=("a=shapes", "b=shapes"), device="cpu", threads=1)
    _, pipelines = load_models(settings)
    states: dict[str, list[Any]] = {}
    for name, pipeline in pipelines.items():
        plan = pipeline.prepare(msgspec.structs.replace(_parameters(0, name), steps=STEPS))
        conditioning = pipeline.encode([plan]).conditioning[0]
        states[name] = [pipeline.begin(plan, conditioning, seed) for seed in range(4)]
    seconds: dict[str, list[float]] = {"one": [], "two in turns": []}
    for number in range(STEPS // 3):
        for kind in sorted(seconds, reverse=number % 2 == 1):
            order = ("a", "b") if kind == "two in turns" else (("a", "a"), ("b", "b"))[number % 2]
            began = time.perf_counter()
            for name in order:
                pipelines[name].step(states[name]).span.wait()
            seconds[kind].append((time.perf_counter() - began) / 2)
    medians = {kind: statistics.median(found) * 1000 for kind, found in seconds.items()}
    return {f"{kind}, ms": median for kind, median in medians.items()} | {
        "in turns over one": medians["two in turns"] / medians["one"]
    }


# ------------------------------------------------------------------ memory


def _memory(shelf: Path) -> dict[str, Any]:
    flags = ("--set=worker.threads=1", "--set=worker.model_mib=1000")
    with tempfile.TemporaryDirectory(prefix="links") as folder:
        for name in COPIES:
            _linked(EMBEDDED, Path(folder) / name)
        return {
            "copies": _growth(shelf, *flags),
            "links to the same files": _growth(Path(folder), *flags),
        }


def _linked(source: Path, target: Path) -> None:
    """A folder of its own, whose weights are links to those of another."""
    shutil.copytree(source, target)
    for weights in target.rglob("*.safetensors"):
        origin = source / weights.relative_to(target)
        weights.unlink()
        weights.symlink_to(origin)


def _growth(shelf: Path, *flags: str) -> dict[str, Any]:
    with running_server(f"--models-dir={shelf}", *flags) as server, Client(server.address) as client:
        _wait_for(partial(_knows_all, client))
        at_rest = server.resident_mib()["worker-0"]
        resident = []
        for name in COPIES:
            client.load_model(name)
            client.generate("x", model=name, steps=1)
            resident.append(server.resident_mib()["worker-0"])
        growth = [after - before for before, after in itertools.pairwise(resident)]
        for _ in range(ROUNDS):
            for name in COPIES:
                client.unload_model(name)
                client.load_model(name)
        for name in COPIES:
            client.unload_model(name)
            _wait_for(partial(_is_on_disk, client, name))
        time.sleep(QUIET_S)  # until their memory is given back
        return {
            "before the first": at_rest,
            "with one": resident[0],
            "each further one": spread(growth),
            f"after {ROUNDS * len(COPIES)} loads, with none": server.resident_mib()["worker-0"],
            "said to take": client.models()[0].status.size_bytes / 2**20,
        }


if __name__ == "__main__":
    main()
