"""The real core in a simulated fleet: nothing is lost, and the same seed gives the same schedule."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from simulate import main

from collodion.process.config import load
from collodion.scheduler.config import PolicyName, SchedulerConfig
from simulation.contenders import contender
from simulation.fleets import Bounds, make_fleet
from simulation.instance import Instance, KeyCosts, Request
from simulation.ledger import Outcome
from simulation.profiles import Profile
from simulation.result import Result, quantile
from simulation.running import run
from simulation.study import Study, run_study
from simulation.workloads import TRACE_IMAGES, Workload, make_instance
from simulation.world import Conditions, Stalled

COSTS = KeyCosts((0.01, 0.011), (0.026, 0.032, 0.041, 0.05), (0.026, 0.044, 0.059, 0.073))
WORKLOAD = Workload(jobs=40, model="m", shapes=((512, 5, 15, 1.0),), images=TRACE_IMAGES, tenants=2)
FLEET = make_fleet([Profile("kind", "m", {512: COSTS})], [2], WORKLOAD.keys(), Bounds())
FIFO = SchedulerConfig(policy=PolicyName.FIFO)
DRAIN = Conditions(drain=True)


def _instance(load: float = 0.8, seed: int = 1) -> Instance:
    return make_instance(WORKLOAD, FLEET, load, 3.0, seed)


def _fates(result: Result) -> list[tuple[object, ...]]:
    return [dataclasses.astuple(record) for record in result.records]


@pytest.mark.parametrize("policy", [PolicyName.FIFO, PolicyName.STATIC])
def test_every_request_is_finished_and_every_evaluation_is_run_once(policy: PolicyName) -> None:
    instance = _instance()
    result = run(instance, SchedulerConfig(policy=policy), DRAIN)
    assert {record.outcome for record in result.records} == {Outcome.FINISHED}
    assert result.evaluations == sum(each.evaluations * each.images for each in instance.requests)
    finishes = [record.finish for record in result.records]
    assert all(
        finish is not None and finish > each.release for finish, each in zip(finishes, instance.requests, strict=True)
    )


def test_a_request_alone_takes_its_standalone_time_and_the_messages() -> None:
    request = Request(0.0, 10.0, "m/512x512", 10)
    result = run(Instance((request,), FLEET[:1]), FIFO, Conditions(delay_s=0.001))
    # To the scheduler, to the worker, and back.
    assert result.records[0].finish == pytest.approx(0.01 + 10 * 0.026 + 0.026 + 3 * 0.001)
    assert result.figures()["attainment"] == 1.0


def test_the_same_seed_gives_the_same_schedule() -> None:
    noisy = Conditions(seed=3, noise=0.1, drain=True)
    assert _fates(run(_instance(), FIFO, noisy)) == _fates(run(_instance(), FIFO, noisy))
    assert _fates(run(_instance(), FIFO, noisy)) != _fates(run(_instance(), FIFO, dataclasses.replace(noisy, seed=4)))


def test_processes_change_nothing() -> None:
    study = Study(WORKLOAD, FLEET, (0.7, 1.1), (2.0,), (1, 2), (contender("fifo"), contender("static")), Conditions())
    seen: list[int] = []
    alone = run_study(study, 1, seen.append)
    assert sum(seen) == len(study.tasks()) * WORKLOAD.jobs
    shared = run_study(study, 2, lambda _: None)
    assert [each.records for each in alone] == [each.records for each in shared]
    assert [(each.load, each.seed, each.label) for each in shared][:3] == [
        (0.7, 1, "fifo"),
        (0.7, 1, "static"),
        (0.7, 2, "fifo"),
    ]


def test_a_bias_makes_everything_longer() -> None:
    plain, biased = (run(_instance(), FIFO, Conditions(bias=bias, drain=True)) for bias in (0.0, 0.5))
    assert biased.busy_s > 1.2 * plain.busy_s


def test_a_run_ends_when_all_deadlines_have_passed() -> None:
    instance = _instance(load=4.0)
    result = run(instance, FIFO, Conditions())
    assert result.figures()["open"] > 0
    assert result.ended_s <= max(each.deadline for each in instance.requests) + 1.0


def test_what_has_no_deadline_is_waited_for_and_not_counted() -> None:
    requests = (Request(0.0, float("inf"), "m/512x512", 50), Request(0.1, 0.2, "m/512x512", 5))
    result = run(Instance(requests, FLEET), FIFO, Conditions())
    assert result.records[0].outcome is Outcome.FINISHED
    assert result.figures()["attainment"] == 0.0


def test_a_timeline_tells_of_every_evaluation() -> None:
    result = run(_instance(), FIFO, Conditions(timeline=True, drain=True))
    assert sum(each.evaluations * len(each.latents) for each in result.segments) == result.evaluations
    of_one = sorted((each.start, each.end) for each in result.segments if each.worker == 0)
    assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(of_one))


def test_jobs_that_nobody_runs_are_found_out() -> None:
    stuck = (dataclasses.replace(FLEET[0], max_resident=0),)
    with pytest.raises(Stalled):
        run(Instance((Request(0.0, 1.0, "m/512x512", 5),), stuck), FIFO, DRAIN)


def test_settings_of_a_contender_override_those_of_all() -> None:
    made = contender("static,static_size=3", ["static_size=5", "batch_cap=2"])
    assert (made.config.policy, made.config.static_size, made.config.batch_cap) == (PolicyName.STATIC, 3, 2)
    assert made.config == load(
        SchedulerConfig, "scheduler", ["--policy=static", "--static-size=3", "--batch-cap=2"], {}
    )


def test_quantiles_are_interpolated() -> None:
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([4.0], 0.99) == 4.0


def test_the_command_prints_a_table_for_each_cell_and_writes_json_and_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = '{"clip": [10, 11], "unet": [20, 25, 30], "vae": [8, 12]}'
    (tmp_path / "profiles.json").write_text('{"profiles": {"fast-m-512": ' + stages + "}}")
    flags = f"--profile {tmp_path}/profiles.json:fast-m-512 --jobs 30 --load 0.8 --slo-scale 2 3 --policy fifo --processes 1"
    bounds = [{"load": 0.8, "slo_scale": scale, "attainment": 0.987, "attainment_evaluations": 1.0} for scale in (2, 3)]
    (tmp_path / "bounds.json").write_text(json.dumps({"bounds": bounds}))
    files = f"--json {tmp_path}/out.json --records --plots {tmp_path}/plots --bounds {tmp_path}/bounds.json"
    main([*flags.split(), *files.split()])
    printed = capsys.readouterr().out
    assert "load 0.8, SLO scale 3" in printed
    assert "| fifo" in printed
    assert "98.7" in printed
    assert '"records"' in (tmp_path / "out.json").read_text()
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["attainment-evaluations.png", "attainment.png", "queues.png", "timeline-fifo.png"]
