"""The command `collodion`, called as a function, against a scripted server: exit codes, what is printed where, files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from collodion.client.cli import main
from collodion.v1 import generation_pb2, job_pb2, model_pb2
from tests.integration import fake_server as fake
from tests.integration.fake_server import JOB_ID, Error, FakeServer

HAPPY = [
    fake.accepted(2),
    fake.event(warning=job_pb2.Warning(reason="PROMPT_TRUNCATED", message="the prompt was cut off")),
    fake.progress(2, 0),
    fake.preview(2, 0),
    fake.image(1, fake.png((0, 0, 255))),
    fake.image(0),
    fake.finished(),
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer() as server:
        monkeypatch.setenv("COLLODION_SERVER", server.address)
        yield server


def test_generate_saves_files_named_by_job_and_seed_and_prints_their_paths(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script("Generate", HAPPY)
    flags = "--steps 4 --negative blur -n 2 --width 64 --height 32 --sampler ddim --guidance 1.5 --seed 7 --tier batch"
    more = "--slo 30 --format webp --quality 80 --preview-every 2 --label a=b --model shapes --tenant atelier"
    assert main(["generate", "a fox", *flags.split(), *more.split(), "--output", str(tmp_path)]) == 0

    printed = capsys.readouterr()
    paths = [tmp_path / f"{JOB_ID}-8.png", tmp_path / f"{JOB_ID}-7.png"]
    assert printed.out.splitlines() == [str(path) for path in paths]
    assert paths[1].read_bytes() == fake.png()
    assert "\x1b" not in printed.err, "no colours and no bars where there is no terminal"
    assert "warning: the prompt was cut off" in printed.err
    asked = server.asked("Generate")[0].job
    assert (asked.parameters.negative_prompt, asked.parameters.images, asked.parameters.guidance_scale) == (
        "blur",
        2,
        1.5,
    )
    assert (asked.parameters.output_format, asked.parameters.quality) == (job_pb2.OUTPUT_FORMAT_WEBP, 80)
    assert (asked.tier, asked.slo.seconds, asked.preview_interval, asked.labels) == ("batch", 30, 2, {"a": "b"})
    assert server.metadata[0]["x-collodion-tenant"] == "atelier"


def test_generate_as_json_is_a_line_for_each_event(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script("Generate", HAPPY)
    assert main(["generate", "a fox", "--json", "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    names = ["accepted", "warned", "progress", "preview", "image_ready", "image_ready", "finished"]
    assert [line["event"] for line in lines] == names
    assert Path(lines[4]["path"]).is_file()
    assert lines[4]["image"]["sha256"]
    assert printed.err == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Error(grpc.StatusCode.NOT_FOUND, "there is no model x", "MODEL_NOT_FOUND"), 2, "there is no model x"),
        (
            Error(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", "QUEUE_FULL", (fake.retry_info(99),)),
            3,
            "the queue is full (try again in 99 s)",
        ),
        (Error(grpc.StatusCode.INTERNAL, "it broke", "INTERNAL"), 4, "it broke"),
        (fake.failed(), 4, "it went to infinity"),
        (fake.cancelled(), 4, "cancelled by a client"),
    ],
)
def test_an_error_is_one_sentence_and_its_kind_the_exit_code(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Any, code: int, said: str
) -> None:
    accepted = [] if isinstance(error, Error) else [fake.accepted()]
    server.script("Generate", [*accepted, error])
    assert main(["generate", "a fox", "-o", str(tmp_path)]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("collodion: ")
    assert said in last


def test_violations_are_listed(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="job.parameters.width", description="has to be a multiple of 8")
    bad.field_violations.add(field="job.tier", description="is unknown")
    invalid = Error(grpc.StatusCode.INVALID_ARGUMENT, "two fields are out of range", "INVALID_FIELDS", (bad,))
    server.script("Generate", [invalid])
    assert main(["generate", "a fox"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "collodion: two fields are out of range",
        "  job.parameters.width: has to be a multiple of 8",
        "  job.tier: is unknown",
    ]
    assert main(["generate", "a fox", "--json"]) == 2
    line = json.loads(capsys.readouterr().err)
    assert (line["error"], line["reason"]) == ("InvalidRequest", "INVALID_FIELDS")
    assert [violation["field"] for violation in line["violations"]] == ["job.parameters.width", "job.tier"]


def test_a_server_that_is_not_there_is_said_so(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.stop()
    assert main(["models"]) == 3
    said = capsys.readouterr().err
    assert server.address in said
    assert "collodion serve" in said


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["draw"],
        ["generate"],
        ["generate", "x", "--steps", "many"],
        ["generate", "x", "--deadline-policy", "perhaps"],
        ["jobs", "--limit", "0"],
        ["models", "--timeout", "inf"],
        ["models", "--timeout", "1e300"],
        ["serve", "--set", "x"],
    ],
)
def test_wrong_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: collodion" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "jobs", "watch", "why", "cancel", "models", "tiers", "serve", "demo"])
def test_help_explains_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "130  interrupted" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script("Generate", HAPPY)
    file = tmp_path / "file"
    file.write_text("in the way")
    for argv in (["generate", "a fox"], ["watch", JOB_ID], ["demo", "a fox"]):
        assert main([*argv, "-o", str(file)]) == 2
        assert capsys.readouterr().err == f"collodion: pictures cannot be saved in {file}: File exists\n"
    assert not server.calls, "it is noticed before anything is drawn"


def test_jobs_are_listed_as_a_table_or_as_json_up_to_the_limit(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    page = generation_pb2.ListJobsResponse(jobs=[fake.job(job_id=str(i)) for i in range(3)], next_page_token="more")
    server.script("ListJobs", page)
    assert main(["jobs", "--limit", "2", "--state", "running", "--label", "a=b"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split("\t") == ["1", "running", "0/1", "shapes", "", "-", "a fox"]
    assert main(["jobs", "--limit", "5", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["job_id"] for line in lines] == ["0", "1", "2", "0", "1"]
    assert list(server.asked("ListJobs")[0].states) == [job_pb2.JOB_STATE_RUNNING]


_HOSTILE = "a fox\x1b[2J\x9b31m\x07\r\nred [bold]and[/bold] :smile: \u202eturned"
_HARMLESS = "a fox\ufffd[2J\ufffd31m\ufffd  red [bold]and[/bold] :smile: \ufffdturned"


def test_text_of_others_cannot_steer_the_terminal_and_json_has_it_as_it_is(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = fake.job()
    job.parameters.prompt = _HOSTILE
    warning = fake.event(warning=job_pb2.Warning(reason="PROMPT_TRUNCATED", message=_HOSTILE))
    server.script("ListJobs", generation_pb2.ListJobsResponse(jobs=[job]))
    server.script("WatchJob", [fake.accepted(), warning, fake.image(), fake.finished()])
    server.script("CancelJob", Error(grpc.StatusCode.NOT_FOUND, _HOSTILE, "JOB_NOT_FOUND"))
    assert main(["jobs"]) == 0
    assert main(["watch", JOB_ID, "-o", str(tmp_path)]) == 0
    assert main(["cancel", JOB_ID]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].endswith(f"\t{_HARMLESS}")
    assert printed.err.splitlines()[-2:] == [f"warning: {_HARMLESS}", f"collodion: {_HARMLESS}"]
    assert main(["jobs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["prompt"] == _HOSTILE


def test_models_watch_and_cancel(server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.script("ListModels", model_pb2.ListModelsResponse(models=[fake.model()]))
    server.script("WatchJob", [fake.accepted(), fake.image(), fake.finished()])
    cancelled = generation_pb2.CancelJobResponse(job=fake.job(state=job_pb2.JOB_STATE_CANCELLED))
    server.script("CancelJob", cancelled)
    assert main(["models"]) == 0
    assert "shapes (default)" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samplers"] == ["ddim", "euler"]
    assert main(["watch", JOB_ID, "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / JOB_ID}-7.png\n"
    assert main(["cancel", JOB_ID]) == 0
    assert capsys.readouterr().out == f"job {JOB_ID} is cancelled\n"
    assert main(["cancel", JOB_ID, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "cancelled"


def command(server: FakeServer, *argv: str, **more: Any) -> "subprocess.Popen[str]":
    environment = os.environ | {"COLLODION_SERVER": server.address} | more.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-m", "collodion.client.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **more,
    )


def cancelled_with_much_to_say(server: FakeServer, module: str, **environment: str) -> str:
    """What is on standard error of a command that fails, while gRPC says much if it may speak."""
    given = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    asked = {"COLLODION_SERVER": server.address, "GRPC_TRACE": "http", **environment}
    argv = [sys.executable, "-m", module, "cancel", JOB_ID, "--json"]
    done = subprocess.run(argv, env=given | asked, capture_output=True, text=True, timeout=fake.BOUND_S)
    assert done.returncode == 2
    return done.stderr


@pytest.mark.parametrize("module", ["collodion.client.cli", "collodion.command"])
def test_grpcs_own_log_does_not_mix_with_our_errors(server: FakeServer, module: str) -> None:
    said = cancelled_with_much_to_say(server, module)
    assert said.count("\n") == 1
    assert json.loads(said)["code"] == "UNIMPLEMENTED"


@pytest.mark.parametrize("module", ["collodion.client.cli", "collodion.command"])
def test_grpcs_own_log_is_there_if_it_is_asked_for(server: FakeServer, module: str) -> None:
    assert "chttp2" in cancelled_with_much_to_say(server, module, GRPC_VERBOSITY="INFO")


def test_interrupted_it_cancels_the_job_and_exits_with_130(server: FakeServer) -> None:
    server.script("Generate", [fake.accepted(), fake.until_hung_up])
    server.script("CancelJob", generation_pb2.CancelJobResponse(job=fake.job(state=job_pb2.JOB_STATE_CANCELLED)))
    with command(server, "generate", "a fox") as process:
        assert process.stderr is not None
        assert f"job {JOB_ID}" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=fake.BOUND_S)
    assert process.returncode == 130
    assert "is cancelled" in said
    assert "Traceback" not in said
    assert [request.job_id for request in server.asked("CancelJob")] == [JOB_ID]


def test_a_terminal_of_ascii_or_a_reader_that_leaves_is_no_error(server: FakeServer, tmp_path: Path) -> None:
    job = fake.job()
    job.parameters.prompt = "ein Füchslein 🦊"
    server.script("ListJobs", generation_pb2.ListJobsResponse(jobs=[job] * 3000))
    with command(server, "jobs", "--limit", "3000", env={"PYTHONIOENCODING": "ascii"}) as process:
        assert process.stdout is not None
        assert "ein F?chslein ?" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(fake.BOUND_S) == 0
    assert said == ""


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_output_is_no_error(server: FakeServer, tmp_path: Path, closed: int) -> None:
    server.script("Generate", HAPPY)
    collodion = [sys.executable, "-m", "collodion.client.cli", "generate", "a fox", "-o", str(tmp_path)]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}>&-', "sh", *collodion], timeout=fake.BOUND_S)
    assert done.returncode == 0
    assert len(list(tmp_path.iterdir())) == 2
