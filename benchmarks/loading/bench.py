"""A bench: what is asked of whom, as the command line says it; and one run on it."""

import argparse
import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from collodion.wire.jobs import DeadlinePolicy
from loading.asking import Reply, Wish, undated
from loading.cells import Cell, Turn, turns_of
from loading.costs import SIMULATED, Recorded, measure, recorded, server_profile, simulated_settings
from loading.driving import Driver, until_ready
from loading.outcomes import Run, answers_of, figures_of, instance_of, result_of
from loading.serving import Contestant, Servers
from simulation.contenders import contender
from simulation.fleets import Bounds, make_fleet
from simulation.instance import Device, Instance, Request, load_of
from simulation.options import loads_of, workload_of
from simulation.profiles import Profile, ProfileError, read_profile
from simulation.result import Result
from simulation.running import run
from simulation.traces import TraceError
from simulation.workloads import Workload, make_instance
from simulation.world import Conditions

EXTERNAL = "server"
_CLOSED_LOAD = 1.0  # of arrivals that nobody waits for
_WARM_UP_STEPS = 4
_SIMULATED_PIXELS = 64
_DELAY_S = 0.001  # of a message, in a replay: between processes of one machine that is busy


@dataclass(frozen=True, slots=True)
class Bench:
    """`server_flags` are those of all servers that are started; `settings` (SETTING=VALUE) the scheduler's among them."""

    workload: Workload
    devices: tuple[Device, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    repeats: int
    requests: int
    labels: tuple[str, ...]
    wish: Wish
    address: str | None
    server_flags: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def turns(self) -> list[Turn]:
        """All runs in their order."""
        return turns_of(self.cells, self.seeds, self.repeats, self.labels)

    def instance(self, cell: Cell, seed: int) -> Instance:
        """What is asked for in a cell."""
        if cell.users is None:
            assert cell.load is not None
            assert cell.slo_scale is not None
            return make_instance(self.workload, self.devices, cell.load, cell.slo_scale, seed)
        workload = dataclasses.replace(self.workload, jobs=cell.users * self.requests)
        instance = make_instance(workload, self.devices, _CLOSED_LOAD, cell.slo_scale or 1.0, seed)
        if cell.slo_scale is not None:
            return instance
        return dataclasses.replace(instance, requests=undated(instance.requests))

    def start(self, servers: Servers) -> None:
        """Brings up whatever is needed, and has every server run each batch size once."""
        for label in self.labels:
            if self.address is None:
                servers.start(label, self.server_flags)
            else:
                servers.use(label, self.address)
            contestant = servers.by_label[label]
            asyncio.run(until_ready(contestant.address))
            wish = Wish(DeadlinePolicy.BEST_EFFORT)
            for size in (self.devices[0].max_batch, 1):
                each = Request(0.0, float("inf"), self.workload.keys()[0], _WARM_UP_STEPS)
                asyncio.run(Driver(contestant.address, wish).open_loop([each] * size))
            contestant.batches()

    def run(self, turn: Turn, contestant: Contestant, replays: bool, on_reply: Callable[[Reply], object]) -> list[Run]:
        """One turn; and, if it `replays`, what the simulator makes of it."""
        planned, users = self.instance(turn.cell, turn.seed), turn.cell.users
        driver = Driver(contestant.address, dataclasses.replace(self.wish, seed=turn.seed), on_reply)
        if users is None:
            replies = asyncio.run(driver.open_loop(planned.requests))
        else:
            replies = asyncio.run(driver.closed_loop(planned.requests, users))
        batches = contestant.batches()
        instance = instance_of(replies, self.devices, closed=users is not None)
        result = result_of(turn.label, instance, replies, batches)
        figures = figures_of(result) | answers_of(instance, replies)
        real = Run(turn.label, turn.cell, turn.seed, turn.repeat, figures, result.records)
        if not (replays and batches and users is None):
            return [real]
        found = recorded(batches, self.devices[0])
        devices = tuple(dataclasses.replace(device, costs=found.device.costs) for device in self.devices)
        instance = dataclasses.replace(instance, devices=devices)
        real.figures.update(step_noise=found.noise, store_s=found.store_s, load=_load_of(instance))
        again = self._replayed(turn, instance, found)
        return [real, dataclasses.replace(real, figures=figures_of(again), records=again.records, replayed=True)]

    def _replayed(self, turn: Turn, instance: Instance, found: Recorded) -> Result:
        conditions = Conditions(
            seed=turn.seed,
            noise=found.noise,
            delay_s=_DELAY_S,
            store_s=found.store_s,
            drain=True,
            deadline_policy=self.wish.deadline_policy,
            min_steps=self.wish.min_steps,
        )
        return run(instance, contender(turn.label, self.settings).config, conditions)


def _load_of(instance: Instance) -> float:
    """What the load turned out to be; NaN of a burst."""
    span_s = instance.requests[-1].release - instance.requests[0].release
    return load_of(instance, span_s) if span_s else math.nan


def bench_of(arguments: argparse.Namespace, folder: Path) -> Bench:
    """The bench that was asked for; files that it needs go into `folder`. Exits with code 2 and a sentence if it cannot be made."""
    model = arguments.model.partition("=")[0]
    if arguments.replay and (arguments.server or arguments.users):
        raise SystemExit(
            "load: --replay needs the costs in the log of a server of its own, and arrivals that wait for nobody"
        )
    try:
        where = _profile(arguments, folder)
        read = _of_model(read_profile(where), model)
        if arguments.workload == "mixed":
            raise TraceError(
                "sizes beside the profile's own would cost nobody knows what: --workload mixed is for simulate.py"
            )
        workload = workload_of(arguments, model, max(read.sizes))
        bounds = Bounds(arguments.max_batch, arguments.encode_batch, arguments.decode_batch, arguments.max_resident)
        fleet = make_fleet([read], arguments.workers, workload.keys(), bounds)
        cells = _cells(arguments, workload, fleet)
    except (ProfileError, TraceError) as error:
        raise SystemExit(f"load: {error}") from error
    profile = server_profile(where, model, workload.keys()[0], folder)
    return Bench(
        workload=workload,
        devices=fleet,
        cells=cells,
        seeds=tuple(arguments.seed or [1]),
        repeats=arguments.repeats,
        requests=arguments.requests,
        labels=(EXTERNAL,) if arguments.server else tuple(arguments.policy or ["slack"]),
        wish=Wish(DeadlinePolicy(arguments.wish), arguments.min_steps),
        address=arguments.server,
        server_flags=tuple(_server_flags(arguments, fleet, workload.keys()[0], profile)),
        settings=tuple(each.partition(".")[2] for each in arguments.set if each.startswith("scheduler.")),
    )


def _of_model(profile: Profile, model: str) -> Profile:
    """As this model's. The simulated one draws small pictures, whatever they are said to cost: this machine's time is for serving."""
    sizes = {_SIMULATED_PIXELS: profile.sizes[max(profile.sizes)]} if model == SIMULATED else profile.sizes
    return Profile(profile.kind, model, sizes)


def _profile(arguments: argparse.Namespace, folder: Path) -> str:
    """FILE:NAME of what the device costs; measured now if none was given."""
    if len(arguments.profile or ()) > 1:
        raise ProfileError("the workers of a server are of one kind here: one --profile")
    if arguments.profile:
        return str(arguments.profile[0])
    if arguments.server:
        raise ProfileError("a server that runs already needs --profile FILE:NAME, as `collodion profile` makes it")
    flags = [f"--set={each}" for each in arguments.set if each.startswith("worker.")]
    return measure(arguments.model, flags, folder / "measured.json")


def _cells(arguments: argparse.Namespace, workload: Workload, fleet: tuple[Device, ...]) -> tuple[Cell, ...]:
    if arguments.users:
        scales: Sequence[float | None] = arguments.slo_scale or [None]
        return tuple(Cell(users=users, slo_scale=scale) for scale in scales for users in arguments.users)
    loads = loads_of(arguments, workload, fleet)
    return tuple(Cell(load=load, slo_scale=scale) for scale in arguments.slo_scale or [2.0] for load in loads)


def _server_flags(arguments: argparse.Namespace, fleet: tuple[Device, ...], key: str, profile: Path) -> list[str]:
    device = fleet[0]
    settings = [
        f"worker.max_batch={device.max_batch}",
        f"worker.encode_batch={device.encode_batch}",
        f"worker.decode_batch={device.decode_batch}",
        f"worker.max_resident={device.max_resident}",
        "worker.log_level=debug",  # every batch and what it took
        f"scheduler.profiles={profile}",
    ]
    if arguments.model == SIMULATED:
        settings += simulated_settings(device.costs[key])
    devices = ["--device=cpu"] * len(fleet) if len(fleet) > 1 else []
    return [f"--model={arguments.model}", *devices, *(f"--set={each}" for each in [*settings, *arguments.set])]
