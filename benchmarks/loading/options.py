"""The command line of `load.py`: the simulator's flags for fleet and workload, and what only a real server has."""

import argparse
from pathlib import Path

from simulation.options import add_fleet, add_workload

_JOBS = 60
_REQUESTS = 4


def parser(description: str) -> argparse.ArgumentParser:
    """All options."""
    made = argparse.ArgumentParser(description=description, allow_abbrev=False)
    _add_server(made.add_argument_group("server"))
    add_fleet(made.add_argument_group("fleet"), needs_profile=False)
    closed = made.add_argument_group("closed loop")
    closed.add_argument(
        "--users",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="so many who wait for each answer; no arrivals then",
    )
    closed.add_argument(
        "--requests", type=int, default=_REQUESTS, metavar="N", help="of each user in a run (default: %(default)s)"
    )
    add_workload(made.add_argument_group("workload (open loop, but for what is asked for)"))
    _add_output(made.add_argument_group("runs and output"))
    made.set_defaults(jobs=_JOBS)
    return made


def _add_server(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--server", metavar="HOST:PORT", help="one that runs already; needs --profile")
    group.add_argument(
        "--model", default="shapes", metavar="MODEL", help="shapes, simulated or NAME=FOLDER (default: shapes)"
    )
    group.add_argument(
        "--policy",
        action="append",
        metavar="NAME[,SETTING=VALUE]",
        help="a server with this policy, and scheduler settings of its own; several take turns, ratios are to the first",
    )
    group.add_argument(
        "--set", action="append", default=[], metavar="PROCESS.SETTING=VALUE", help="a setting of all servers"
    )


def _add_output(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--seed", type=int, nargs="+", action="extend", metavar="N", help="default: 1")
    group.add_argument(
        "--repeats", type=int, default=1, metavar="N", help="of every run, all contenders in turn (default: 1)"
    )
    group.add_argument(
        "--replay", action="store_true", help="simulate each open run with the costs that it had, and show both"
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    group.add_argument("--records", action="store_true", help="with each request's fate")
    group.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it")
