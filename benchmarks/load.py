"""Drives the real server through the real client, in closed or open loop, with the simulator's workloads.

For example: load.py --policy static,static_timeout_s=0.3 --policy slack --users 1 2 4 --set worker.threads=1
load.py --model simulated --profile ../shared/data/profiles/sd15-stage-latency.json:h100-sd15-512 --workload gamma --load 0.9 1.2
--slo-scale 3 --steps 10-50 --policy fifo --policy slack --replay --json .runs/load.json --plot .runs/load.png
"""

import argparse
import dataclasses
import json
import math
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import environment
from loading.bench import Bench, bench_of
from loading.live import Live
from loading.options import parser
from loading.outcomes import Run
from loading.plots import plot
from loading.serving import Servers
from loading.tables import cell_table, replay_table, rows_of
from simulation.study import quieten


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, prints tables, draws and writes what was asked for."""
    arguments = parser(__doc__ or "").parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="load") as folder:
        bench = bench_of(arguments, Path(folder))
        runs = run_all(bench, arguments.replay)
    _print(runs)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_document(arguments, runs), indent=1) + "\n")
    if arguments.plot is not None:
        print(f"\n{plot(rows_of(runs), arguments.plot)}")


def run_all(bench: Bench, replays: bool) -> list[Run]:
    """All runs; of a study that is interrupted those that were done."""
    quieten()  # the scheduler's log of a replay is of no use
    turns = bench.turns
    runs: list[Run] = []
    with Servers() as servers, Live(sum(len(bench.instance(each.cell, each.seed).requests) for each in turns)) as live:
        try:
            bench.start(servers)
            for turn in turns:
                live.begin(turn)
                runs += bench.run(turn, servers.by_label[turn.label], replays, live.take)
        except KeyboardInterrupt:
            if not runs:
                raise
            print(f"\nload: interrupted; {len(runs)} runs were done", file=sys.stderr)
    return runs


def _print(runs: list[Run]) -> None:
    rows = rows_of(runs)
    for cell in dict.fromkeys(row.cell for row in rows):
        here = [row for row in rows if row.cell == cell]
        requests = len(here[0].runs[0].records)
        print(f"\n{cell.label}, {requests} requests, {len(here[0].runs)} runs\n\n{cell_table(here)}")
    if any(row.replayed for row in rows):
        print(f"\n{replay_table(rows)}")


def _document(arguments: argparse.Namespace, runs: list[Run]) -> dict[str, Any]:
    settings = {name: value if _is_plain(value) else str(value) for name, value in vars(arguments).items()}
    return {
        "benchmark": "load",
        "environment": environment(),
        "settings": settings,
        "runs": [_as_json(run, arguments.records) for run in runs],
    }


def _as_json(run: Run, with_records: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "policy": run.label,
        "replayed": run.replayed,
        "users": run.cell.users,
        "load": run.cell.load,
        "slo_scale": run.cell.slo_scale,
        "seed": run.seed,
        "repeat": run.repeat,
        "figures": {name: value if math.isfinite(value) else None for name, value in run.figures.items()},
    }
    if with_records:
        told["records"] = [dataclasses.asdict(record) for record in run.records]
    return told


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped whoever ends it
    main()
