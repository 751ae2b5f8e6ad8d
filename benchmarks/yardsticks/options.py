"""The command line of `yardstick.py`."""

import argparse
from pathlib import Path

from common import ROOT
from simulation.contenders import contender
from simulation.fleets import Bounds, make_fleet
from simulation.options import add_fleet, add_workload, loads_of, workload_of
from simulation.profiles import ProfileError, read_profile
from simulation.study import Contender
from simulation.traces import TraceError
from yardsticks.bounds import FINEST
from yardsticks.cells import Grid

_PROFILE = f"{ROOT.parent}/shared/data/profiles/sd15-stage-latency.json:h100-sd15-512"
_OPTIMA = Path(__file__).with_name("optima.json")
_POLICIES = ("static", "fifo", "fifo+drop", "edf+drop", "edf+predict", "slack")
_INSTANCES = 28
_LIMIT_S = 300.0


def parser(description: str) -> argparse.ArgumentParser:
    """All options of both modes."""
    made = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = made.add_subparsers(dest="mode", required=True)
    _add_tiny(
        modes.add_parser("tiny", help="exact optima of tiny instances, and what policies reach", allow_abbrev=False)
    )
    _add_bound(modes.add_parser("bound", help="upper bounds for the cells of a simulation", allow_abbrev=False))
    for mode in modes.choices.values():
        mode.add_argument("--processes", type=int, default=2, metavar="N", help="at a time (default: 2)")
        mode.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return made


def contenders_of(arguments: argparse.Namespace) -> list[Contender]:
    """The policies to compare."""
    return [contender(text, arguments.set) for text in arguments.policy or _POLICIES]


def grid_of(arguments: argparse.Namespace) -> Grid:
    """The cells to bound. Exits with code 2 and a sentence if they cannot be made."""
    try:
        profiles = [read_profile(where) for where in arguments.profile]
        workload = workload_of(arguments, profiles[0].model, max(profiles[0].sizes))
        bounds = Bounds(arguments.max_batch, arguments.encode_batch, arguments.decode_batch, arguments.max_resident)
        fleet = make_fleet(profiles, arguments.workers, workload.keys(), bounds)
        loads = loads_of(arguments, workload, fleet)
    except (ProfileError, TraceError) as error:
        raise SystemExit(f"yardstick: {error}") from error
    scales = tuple(arguments.slo_scale or [2.0])
    return Grid(workload, fleet, loads, scales, tuple(arguments.seed or [1]), arguments.finest)


def _add_tiny(mode: argparse.ArgumentParser) -> None:
    mode.add_argument("--profile", default=_PROFILE, metavar="FILE:NAME", help="default: the H100's at 512 px")
    mode.add_argument(
        "--instances", type=int, default=_INSTANCES, metavar="N", help="of each kind, offline and online (default: 28)"
    )
    mode.add_argument(
        "--policy", action="append", metavar="NAME[,SETTING=VALUE]", help="default: all that there are, in turn"
    )
    mode.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="a scheduler setting of all")
    mode.add_argument("--delay", type=float, default=0.0005, metavar="S", help="of a message (default: 0.0005)")
    mode.add_argument(
        "--limit", type=float, default=_LIMIT_S, metavar="S", help="the solver's time for a selection (default: 300)"
    )
    mode.add_argument(
        "--optima", type=Path, default=_OPTIMA, metavar="FILE", help="those known already (default: beside the code)"
    )


def _add_bound(mode: argparse.ArgumentParser) -> None:
    add_fleet(mode.add_argument_group("fleet"))
    add_workload(mode.add_argument_group("workload"))
    mode.add_argument("--seed", type=int, nargs="+", action="extend", metavar="N", help="default: 1")
    mode.add_argument(
        "--finest",
        type=int,
        default=FINEST,
        metavar="N",
        help="intervals that a job spans at most; more is tighter and slower (default: %(default)s)",
    )
