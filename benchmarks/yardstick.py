"""How far schedulers are from the best possible schedule.

yardstick.py tiny solves tiny instances exactly, once, and says how much of the optimum each policy reaches.
yardstick.py bound computes upper bounds for the cells of a simulation, which simulate.py --bounds shows beside its results.

For example: yardstick.py tiny --policy slack --policy edf+predict
yardstick.py bound --profile ../shared/data/profiles/sd15-stage-latency.json:h100-sd15-512 --load 0.9 1.2 --slo-scale 2 3 --seed 1 2 3
--json .runs/bounds.json
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from tqdm import tqdm  # type: ignore[import-untyped]

from common import environment
from simulation.profiles import ProfileError, read_profile
from simulation.study import quieten
from simulation.tables import markdown
from simulation.world import Conditions
from yardsticks.cells import Row, bound_cells
from yardsticks.comparison import score, table
from yardsticks.options import contenders_of, grid_of, parser
from yardsticks.store import Known, Store, solve
from yardsticks.tiny import Kind, Tiny, make_tiny


def main(argv: Sequence[str] | None = None) -> None:
    """Computes, prints and writes what was asked for."""
    arguments = parser(__doc__ or "").parse_args(argv)
    quieten()
    figures = _tiny(arguments) if arguments.mode == "tiny" else _bound(arguments)
    if arguments.json is not None:
        document = {"benchmark": f"yardstick {arguments.mode}", "environment": environment(), **figures}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def _tiny(arguments: argparse.Namespace) -> dict[str, object]:
    try:
        profile = read_profile(arguments.profile)
    except ProfileError as error:
        raise SystemExit(f"yardstick: {error}") from error
    seeds = range(arguments.instances)
    instances = [make_tiny(profile, kind, seed) for kind in Kind for seed in seeds]
    known = _known(instances, arguments)
    contenders = contenders_of(arguments)
    conditions = Conditions(delay_s=arguments.delay)
    with tqdm(total=len(instances) * len(contenders), unit="run", delay=2, dynamic_ncols=True) as bar:
        scores = []
        for tiny in instances:
            for contender in contenders:
                scores.append(score(tiny, known[tiny.name], contender, conditions))
                bar.update()
    for kind in Kind:
        print(f"\n{kind}: {_proofs([known[tiny.name] for tiny in instances if tiny.kind is kind])}\n")
        print(table([each for each in scores if each.tiny.kind is kind]))
    return {"scores": [{"instance": s.tiny.name, "policy": s.label, "worth": s.worth, "most": s.most} for s in scores]}


def _known(instances: Sequence[Tiny], arguments: argparse.Namespace) -> dict[str, Known]:
    """By name of instance; what is not known yet is solved."""
    store = Store(arguments.optima)
    known = {tiny.name: store.get(tiny, arguments.limit) for tiny in instances}
    missing = [tiny for tiny in instances if known[tiny.name] is None]
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(solve, tiny, arguments.limit) for tiny in missing]
        for future in tqdm(as_completed(futures), total=len(futures), unit="optimum", delay=2, dynamic_ncols=True):
            solved = future.result()
            store.add(solved)
            known[solved.name] = solved
    return {name: each for name, each in known.items() if each is not None}


def _proofs(known: Sequence[Known]) -> str:
    proven = sum(each.proven for each in known)
    optimum, timed, simple = (sum(getattr(each, name) for each in known) for name in ("most", "timed", "simple"))
    return (
        f"{len(known)} instances, optimum proven in {proven}; {optimum:g} jobs can be on time, "
        f"by the time-indexed programme {timed:g}, by the simple one {simple:g}"
    )


def _bound(arguments: argparse.Namespace) -> dict[str, object]:
    tasks = grid_of(arguments).tasks()
    rows = bound_cells(tasks, arguments.processes)
    done = sorted(
        tqdm(rows, total=len(tasks), unit="bound", dynamic_ncols=True),
        key=lambda row: (row.slo_scale, row.load, row.seed),
    )
    print(_matrix(done))
    return {"bounds": [row.as_json() for row in done]}


def _matrix(rows: Sequence[Row]) -> str:
    cells = dict.fromkeys((row.slo_scale, row.load) for row in rows)
    lines = []
    for cell in cells:
        own = [row for row in rows if (row.slo_scale, row.load) == cell]
        figures = ("attainment", "attainment_evaluations", "simple_attainment")
        means = (statistics.fmean(getattr(row, figure) for row in own) for figure in figures)
        lines.append([f"{cell[0]:g} / {cell[1]:g}", *(f"{100 * mean:.1f}" for mean in means)])
    return markdown(["SLO scale / load", "jobs, % at most", "evaluations", "jobs, by the simple programme"], lines)


if __name__ == "__main__":
    main()
