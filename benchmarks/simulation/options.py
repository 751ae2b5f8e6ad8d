"""The command line of `simulate.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from collodion.scheduler.config import SchedulerConfig
from collodion.wire.jobs import DeadlinePolicy
from simulation.contenders import contender
from simulation.fleets import Bounds, make_fleet
from simulation.instance import Device, load_of
from simulation.profiles import ProfileError, read_profile
from simulation.study import Study
from simulation.traces import TraceError, read_trace
from simulation.workloads import MIXED, TRACE_IMAGES, Tier, Workload, make_instance
from simulation.world import Conditions

_WORKLOADS = ("poisson", "gamma", "trace", "mixed")
_GAMMA_CV = 2.0
_JOBS = 500


def parser(description: str) -> argparse.ArgumentParser:
    """All options."""
    made = argparse.ArgumentParser(description=description, allow_abbrev=False)
    add_fleet(made.add_argument_group("fleet"))
    add_workload(made.add_argument_group("workload"))
    _add_conditions(made.add_argument_group("conditions"))
    _add_output(made.add_argument_group("runs and output"))
    return made


def study_of(arguments: argparse.Namespace) -> Study:
    """The study that was asked for. Exits with code 2 and a sentence if it cannot be made."""
    try:
        profiles = [read_profile(where) for where in arguments.profile]
        if len({profile.model for profile in profiles}) > 1:
            raise ProfileError("the profiles are of different models")
        workload = workload_of(arguments, profiles[0].model, max(profiles[0].sizes))
        bounds = Bounds(arguments.max_batch, arguments.encode_batch, arguments.decode_batch, arguments.max_resident)
        fleet = make_fleet(profiles, arguments.workers, workload.keys(), bounds)
    except (ProfileError, TraceError) as error:
        raise SystemExit(f"simulate: {error}") from error
    return Study(
        workload,
        fleet,
        loads_of(arguments, workload, fleet),
        tuple(arguments.slo_scale or [2.0]),
        tuple(arguments.seed or [1]),
        tuple(contender(text, arguments.set) for text in arguments.policy or ["fifo"]),
        Conditions(
            noise=arguments.noise,
            bias=arguments.bias,
            delay_s=arguments.delay,
            store_s=arguments.store,
            primed=not arguments.unprimed,
            drain=arguments.drain,
            deadline_policy=DeadlinePolicy(arguments.wish),
            min_steps=arguments.min_steps,
        ),
    )


def add_fleet(group: "argparse._ArgumentGroup", needs_profile: bool = True) -> None:
    """What the devices are: also those of a real server, whose profile can be measured."""
    group.add_argument(
        "--profile",
        action="append",
        required=needs_profile,
        metavar="FILE:NAME",
        help="latencies by batch size; FILE:PREFIX- takes all sizes under a prefix; several make unlike workers",
    )
    group.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help="one number: so many in all, the profiles in turn; or one for each profile (default: 1)",
    )
    group.add_argument("--max-batch", type=int, metavar="N", help="default: as many as the profile was measured for")
    group.add_argument("--encode-batch", type=int, default=8, metavar="N", help="default: 8")
    group.add_argument("--decode-batch", type=int, default=4, metavar="N", help="default: 4")
    group.add_argument("--max-resident", type=int, default=256, metavar="N", help="latents held (default: 256)")


def add_workload(group: "argparse._ArgumentGroup") -> None:
    """What is asked for, and how it comes: the same for a real server and a simulated one."""
    group.add_argument("--workload", choices=_WORKLOADS, help="default: trace if there is one, else poisson")
    group.add_argument("--trace", type=Path, metavar="FILE", help="arrivals, stretched in time to the load")
    group.add_argument("--recorded", action="store_true", help="the trace's own times; the load follows from them")
    group.add_argument("--jobs", type=int, metavar="N", help="requests a run (default: 500, or the recorded trace's)")
    group.add_argument("--load", type=float, nargs="+", action="extend", metavar="X", help="default: 1.0")
    group.add_argument("--slo-scale", type=float, nargs="+", action="extend", metavar="X", help="default: 2")
    group.add_argument("--cv", type=float, metavar="X", help="variation of times between arrivals (gamma: 2, else 1)")
    group.add_argument("--steps", metavar="N or A-B", help="default: the trace's, the mix's, or 30")
    group.add_argument(
        "--images", default="1", metavar="N or trace", help="images a request; trace: as GenTD26 has them"
    )
    group.add_argument("--tenants", default="1", metavar="N or trace", help="default: 1")
    group.add_argument("--flood", type=float, default=1.0, metavar="X", help="tenant 0 offers so many times its share")
    group.add_argument(
        "--tiers",
        nargs="+",
        default=[],
        metavar="NAME=SHARE[:FACTOR]",
        help="a mix of tiers; FACTOR times the SLO scale is theirs, none gives no deadline",
    )
    group.add_argument("--burst", type=int, default=0, metavar="N", help="so many requests more, at once, at zero")
    group.add_argument(
        "--wish", choices=[each.value for each in DeadlinePolicy], default="refuse", help="default: refuse"
    )
    group.add_argument("--min-steps", type=int, default=1, metavar="N", help="with --wish degrade (default: 1)")


def _add_conditions(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--noise", type=float, default=0.0, metavar="X", help="of each batch's cost, uncorrelated")
    group.add_argument("--bias", type=float, default=0.0, metavar="X", help="of all costs, unknown to the scheduler")
    group.add_argument("--unprimed", action="store_true", help="the scheduler begins without the profile")
    group.add_argument("--delay", type=float, default=0.0005, metavar="S", help="of a message (default: 0.0005)")
    group.add_argument("--store", type=float, default=0.0, metavar="S", help="to store a picture (default: 0)")
    group.add_argument(
        "--drain", action="store_true", help="go on when all deadlines have passed, until all jobs ended"
    )


def _add_output(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--policy",
        action="append",
        metavar="NAME[,SETTING=VALUE]",
        help="a policy, with scheduler settings of its own; several are compared on the same requests",
    )
    group.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="a scheduler setting of all")
    group.add_argument("--seed", type=int, nargs="+", action="extend", metavar="N", help="default: 1")
    group.add_argument("--processes", type=int, default=2, metavar="N", help="runs at a time (default: 2)")
    group.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    group.add_argument("--records", action="store_true", help="with each request's fate")
    group.add_argument("--plots", type=Path, metavar="FOLDER", help="draw attainment, queue and timeline into FOLDER")
    group.add_argument(
        "--bounds", type=Path, metavar="FILE", help="upper bounds of these cells, as yardstick.py has them"
    )
    group.add_argument(
        "--window", type=float, nargs=2, metavar=("A", "B"), help="seconds that the timeline shows (default: a piece)"
    )


def workload_of(arguments: argparse.Namespace, model: str, size: int) -> Workload:
    """The workload that was asked for, of pictures of `size` pixels. Raises TraceError."""
    kind = arguments.workload or ("trace" if arguments.trace else "poisson")
    if (kind == "trace") != bool(arguments.trace) or (arguments.recorded and not arguments.trace):
        raise TraceError("--trace FILE belongs to --workload trace and --recorded")
    trace = read_trace(arguments.trace) if arguments.trace else ()
    jobs = len(trace) if arguments.recorded else _JOBS
    traced = {"steps"} if arguments.steps is None else set()
    traced |= {"images"} if arguments.images == "trace" else set()
    traced |= {"tenants"} if arguments.tenants == "trace" else set()
    return Workload(
        jobs=jobs if arguments.jobs is None else arguments.jobs,
        model=model,
        shapes=_shapes(kind, arguments.steps, size),
        images=TRACE_IMAGES if arguments.images == "trace" else ((int(arguments.images), 1.0),),
        cv=arguments.cv or (_GAMMA_CV if kind == "gamma" else 1.0),
        trace=trace,
        traced=frozenset(traced),
        recorded=arguments.recorded,
        tenants=1 if arguments.tenants == "trace" else int(arguments.tenants),
        flood=arguments.flood,
        tiers=_tiers(arguments.tiers),
        burst=arguments.burst,
    )


def loads_of(arguments: argparse.Namespace, workload: Workload, fleet: tuple[Device, ...]) -> tuple[float, ...]:
    """The loads that were asked for, or that of the recorded trace. Raises TraceError."""
    if not workload.recorded:
        return tuple(arguments.load or [1.0])
    if arguments.load:
        raise TraceError("--recorded has the load of its trace: --load cannot be given too")
    instance = make_instance(workload, fleet, 1.0, 1.0, 1)
    return (round(load_of(instance, instance.requests[-1].release), 3),)


def _shapes(kind: str, steps: str | None, size: int) -> tuple[tuple[int, int, int, float], ...]:
    least, _, most = (steps or "30").partition("-")
    bounds = int(least), int(most or least)
    if kind != "mixed":
        return ((size, *bounds, 1.0),)
    return tuple((pixels, *(bounds if steps else (own, own)), share) for pixels, own, share in MIXED)


def _tiers(texts: Sequence[str]) -> tuple[Tier, ...]:
    config = SchedulerConfig()
    weights = {info.name: info.weight for info in config.tier_infos()}
    if not texts:
        return (Tier(config.default_tier, 1.0, 1.0, weights[config.default_tier]),)
    tiers = []
    for text in texts:
        name, _, rest = text.partition("=")
        share, _, factor = rest.partition(":")
        scale = None if factor == "none" else float(factor or 1.0)
        tiers.append(Tier(name, float(share), scale, weights.get(name, 1.0)))
    return tuple(tiers)
