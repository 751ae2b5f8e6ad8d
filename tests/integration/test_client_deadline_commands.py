"""What the command `collodion` says of deadlines: promises, offers, explanations, tiers; against a scripted server."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from collodion.client.cli import main
from collodion.v1 import generation_pb2, job_pb2
from tests.integration import fake_server as fake
from tests.integration.fake_server import JOB_ID, Error, FakeServer

NOW = 1_700_000_000  # what the fake server's events say
CLOCK = "2023-11-14 22:13"


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer() as server:
        monkeypatch.setenv("COLLODION_SERVER", server.address)
        yield server


def stamp(after_s: int) -> dict[str, int]:
    return {"seconds": NOW + after_s}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"deadline": stamp(3), "promised": True}, f"  promised by {CLOCK}:23 (in 3 s)"),
        (
            {"deadline": stamp(3), "promised": True, "predicted_finish_time": stamp(2)},
            f"  promised by {CLOCK}:23 (in 3 s), expected {CLOCK}:22 (in 2 s)",
        ),
        (
            {"deadline": stamp(-1), "predicted_finish_time": stamp(9)},
            f"  best effort, deadline {CLOCK}:19 (1 s ago), expected {CLOCK}:29 (in 9 s)",
        ),
        ({"predicted_finish_time": stamp(9)}, f"  expected {CLOCK}:29 (in 9 s)"),
    ],
)
def test_generate_says_what_is_promised(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], line: str
) -> None:
    server.script("Generate", [fake.accepted(**fields), fake.image(), fake.finished()])
    assert main(["generate", "a fox", "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines()[1] == line


@pytest.mark.parametrize(
    ("deadline_s", "met", "line"),
    [(3, True, "  finished 3 s before its deadline"), (-200, False, "  finished 3 min 20 s after its deadline")],
)
def test_generate_says_whether_the_deadline_was_met(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], deadline_s: int, met: bool, line: str
) -> None:
    server.script("Generate", [fake.accepted(deadline=stamp(deadline_s)), fake.image(), fake.finished(met)])
    assert main(["generate", "a fox", "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == line


def test_fewer_steps_than_asked_for_are_a_warning(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warning = fake.event(warning=job_pb2.Warning(reason="DEGRADED", message="3 steps instead of 4"))
    server.script("Generate", [fake.accepted(), warning, fake.image(), fake.finished()])
    flags = "--slo 1.5 --deadline-policy degrade --min-steps 3 --tier interactive"
    assert main(["generate", "a fox", "-o", str(tmp_path), *flags.split()]) == 0
    assert "warning: 3 steps instead of 4" in capsys.readouterr().err
    asked = server.asked("Generate")[0].job
    assert (asked.deadline_policy, asked.min_steps) == (job_pb2.DEADLINE_POLICY_DEGRADE, 3)
    assert (asked.tier, asked.slo.ToMilliseconds()) == ("interactive", 1500)


def refused_with(server: FakeServer, tmp_path: Path, flags: str, *refusals: Error) -> int:
    server.script("Generate", *([refusal] for refusal in refusals))
    return main(["generate", "a fox", "-o", str(tmp_path), *flags.split()])


OFFER = fake.infeasible(4.0, finish_time=stamp(20), slo={"seconds": 8, "nanos": 10_000_000}, steps=2, tier="batch")


def test_a_refusal_lists_the_flags_that_would_do(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_with(server, tmp_path, "--deadline-policy refuse --slo 1", OFFER) == 5
    assert capsys.readouterr().err.splitlines() == [
        "collodion: this deadline cannot be promised (try again in 4 s)",
        f"  --slo 8.1                       as asked, by {CLOCK}:40",
        "  --steps 2                       by the deadline, with fewer steps",
        "  --tier batch without --slo      as asked, by that tier's own deadline",
        "  --deadline-policy best_effort   as asked, in what promises to others leave",
    ]
    assert len(server.calls) == 1


def test_a_refusal_names_no_flag_that_would_not_do(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_with(server, tmp_path, "--deadline-policy degrade --min-steps 3", OFFER) == 5
    said = capsys.readouterr().err
    assert "  --min-steps 2 " in said
    assert "--steps 2" not in said.replace("--min-steps", "")
    assert "without --slo" not in said
    assert refused_with(server, tmp_path, "--deadline-policy refuse", fake.infeasible(None)) == 5
    first, only = capsys.readouterr().err.splitlines()
    assert first == "collodion: this deadline cannot be promised"
    assert only.startswith("  --deadline-policy best_effort")


def test_a_refusal_as_json_is_one_line_with_the_offer(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_with(server, tmp_path, "--json --deadline-policy refuse", OFFER) == 5
    line = json.loads(capsys.readouterr().err)
    assert (line["error"], line["reason"], line["retry_after_s"]) == ("DeadlineInfeasible", "DEADLINE_INFEASIBLE", 4.0)
    assert line["offer"] == {
        "finish_time": "2023-11-14T22:13:40+00:00",
        "slo_s": 8.01,
        "steps": 2,
        "tier": "batch",
    }


def test_why_says_what_a_job_waits_for_and_what_would_help(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    explanation = job_pb2.Explanation(summary="2 promised jobs run first\x1b[2J", remedies=["fewer steps", "a worker"])
    job = fake.job(explanation=explanation, deadline=stamp(3), promised=True)
    server.script("GetJob", generation_pb2.GetJobResponse(job=job))
    assert main(["why", JOB_ID]) == 0
    first, summary, *remedies = capsys.readouterr().out.splitlines()
    assert first.startswith(f"job {JOB_ID} is running, promised by {CLOCK}:23 (")
    assert summary == "2 promised jobs run first\ufffd[2J"
    assert remedies == ["  sooner: fewer steps", "  sooner: a worker"]
    assert main(["why", JOB_ID, "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["job_id"], line["promised"], line["deadline"]) == (JOB_ID, True, "2023-11-14T22:13:23+00:00")
    assert line["explanation"]["remedies"] == ["fewer steps", "a worker"]


def test_why_of_a_job_that_has_ended_or_is_unknown(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    ended = fake.job(state=job_pb2.JOB_STATE_FINISHED, deadline=stamp(3), deadline_met=False)
    server.script(
        "GetJob",
        generation_pb2.GetJobResponse(job=ended),
        Error(grpc.StatusCode.NOT_FOUND, "there is no such job", "JOB_NOT_FOUND"),
    )
    assert main(["why", JOB_ID]) == 0
    assert capsys.readouterr().out == f"job {JOB_ID} is finished, its deadline was missed\n"
    assert main(["why", JOB_ID]) == 2


def test_jobs_show_their_deadline_their_promise_and_whether_it_was_met(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [
        fake.job(deadline=stamp(3), promised=True),
        fake.job(deadline=stamp(3), promised=True, deadline_met=True, state=job_pb2.JOB_STATE_FINISHED),
        fake.job(deadline=stamp(3), deadline_met=False, state=job_pb2.JOB_STATE_FINISHED),
        fake.job(),
    ]
    server.script("ListJobs", generation_pb2.ListJobsResponse(jobs=listed))
    assert main(["jobs"]) == 0
    cells = [line.split("\t")[5] for line in capsys.readouterr().out.splitlines()]
    at = f"{CLOCK}:23"
    assert cells == [f"{at} promised", f"{at} promised, met", f"{at} best effort, missed", "-"]


def test_tiers_are_listed(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.script("ListTiers", fake.tiers())
    assert main(["tiers"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["interactive", "2.5 × alone", "4"],
        ["standard (default)", "1 min 30 s", "1"],
        ["batch", "none", "0.25"],
    ]
    assert main(["tiers", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[0]["slo_scale"], lines[1]["slo_s"], lines[2]["slo_s"]) == (2.5, 90.0, None)


def test_on_a_terminal_a_long_prompt_leaves_room_for_the_rest(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TTY_COMPATIBLE": "1", "COLUMNS": "130", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    job = fake.job(deadline=stamp(3), promised=True)
    job.parameters.prompt = "a fox " * 30
    server.script("ListJobs", generation_pb2.ListJobsResponse(jobs=[job]))
    assert main(["jobs"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert JOB_ID in row
    assert f"{CLOCK}:23 promised" in row
    assert row.rstrip().endswith("…")
