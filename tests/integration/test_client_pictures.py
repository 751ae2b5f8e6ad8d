"""Pictures and adapters through both clients and the command, against a scripted server."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import PIL.Image
import pytest

from collodion.client import InvalidRequest, NotFound
from collodion.client.cli import main
from collodion.v1 import generation_pb2, job_pb2
from tests.integration import fake_server as fake
from tests.integration.both_clients import Async, Blocking
from tests.integration.fake_server import Error, FakeServer

DONE = [fake.accepted(), fake.image(), fake.finished()]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.script("Generate", DONE)
        server.script("CreateJob", generation_pb2.CreateJobResponse(job=fake.job()))
        monkeypatch.setenv("COLLODION_SERVER", server.address)
        yield server


@pytest.fixture(params=[Blocking, Async])
def call(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.mark.parametrize(("method", "rpc"), [("generate", "Generate"), ("stream", "Generate"), ("submit", "CreateJob")])
def test_pictures_and_adapters_reach_the_server(
    server: FakeServer, call: Any, tmp_path: Path, method: str, rpc: str
) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(fake.png())
    picture = PIL.Image.new("RGB", (4, 4), "red")
    call(
        server,
        method,
        "a fox",
        init_image=picture,
        mask_image=mask,
        strength=0.7,
        loras={"ink": 0.5},
        prompt_syntax="weighted",
    )
    (asked,) = server.asked(rpc)
    parameters = asked.job.parameters
    assert PIL.Image.open(io.BytesIO(parameters.init_image)).size == (4, 4)
    assert parameters.mask_image == fake.png()
    assert parameters.prompt_syntax == job_pb2.PROMPT_SYNTAX_WEIGHTED
    assert [(lora.name, lora.scale) for lora in parameters.loras] == [("ink", 0.5)]
    assert parameters.strength == pytest.approx(0.7)


def test_a_request_with_a_picture_is_sent_again_with_it_and_under_its_id(server: FakeServer, call: Any) -> None:
    busy = Error(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many pictures", "QUEUE_FULL", (fake.retry_info(0.001),))
    server.script("Generate", [busy], [fake.BROKEN], DONE)
    call(server, "generate", "a fox", init_image=fake.png())
    asked = server.asked("Generate")
    assert len(asked) == 3
    assert len({one.SerializeToString() for one in asked}) == 1


def test_a_picture_of_several_megabytes_goes_through(server: FakeServer, call: Any) -> None:
    server.stop()
    server.options = [("grpc.max_receive_message_length", -1)]
    server.start()
    call(server, "generate", "a fox", init_image=bytes(16 << 20), mask_image=bytes(16 << 20))
    assert len(server.asked("Generate")[0].job.parameters.init_image) == 16 << 20


def test_a_file_that_is_not_there_is_noticed_before_anything_is_sent(server: FakeServer, call: Any) -> None:
    for method in ("generate", "stream", "submit"):
        with pytest.raises(FileNotFoundError):
            call(server, method, "a fox", init_image="/no/such/picture.png")
    with pytest.raises(InvalidRequest):
        call(server, "generate", "a fox", init_image=7)
    assert server.calls == []


def test_an_adapter_that_is_not_there_is_not_found(server: FakeServer, call: Any) -> None:
    server.script(
        "Generate", [Error(grpc.StatusCode.NOT_FOUND, "no adapter 'imk'; did you mean ink?", "ADAPTER_NOT_FOUND")]
    )
    with pytest.raises(NotFound, match="did you mean ink"):
        call(server, "generate", "a fox", loras=["imk"])


def test_the_command_sends_adapters_and_pictures(server: FakeServer, tmp_path: Path) -> None:
    for name in ("init.png", "mask.png"):
        (tmp_path / name).write_bytes(name.encode())
    flags = [
        "--lora",
        "ink:0.8",
        "--lora",
        "wool",
        "--lora",
        "a:b:-1",
        "--weighted",
        "--strength",
        "0.6",
        "--step-cache",
        "0.1",
    ]
    pictures = ["--init-image", str(tmp_path / "init.png"), "--mask", str(tmp_path / "mask.png")]
    assert main(["generate", "a (red:1.2) fox", *flags, *pictures, "-o", str(tmp_path)]) == 0
    parameters = server.asked("Generate")[0].job.parameters
    assert [(lora.name, round(lora.scale, 3)) for lora in parameters.loras] == [
        ("ink", 0.8),
        ("wool", 1.0),
        ("a:b", -1.0),
    ]
    assert parameters.prompt_syntax == job_pb2.PROMPT_SYNTAX_WEIGHTED
    assert (parameters.init_image, parameters.mask_image) == (b"init.png", b"mask.png")
    assert (parameters.strength, parameters.step_cache) == (pytest.approx(0.6), pytest.approx(0.1))


def test_without_flags_the_command_leaves_all_of_that_to_the_server(server: FakeServer, tmp_path: Path) -> None:
    assert main(["generate", "a fox", "-o", str(tmp_path)]) == 0
    parameters = server.asked("Generate")[0].job.parameters
    assert (parameters.prompt_syntax, len(parameters.loras), parameters.HasField("strength")) == (0, 0, False)


@pytest.mark.parametrize("flag", ["--init-image", "--mask"])
def test_the_command_names_a_picture_that_cannot_be_read(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    for path, why in ((tmp_path / "none.png", "No such file"), (tmp_path, "Is a directory")):
        assert main(["generate", "a fox", flag, str(path), "-o", str(tmp_path / "pictures")]) == 2
        assert capsys.readouterr().err.startswith(f"collodion: the picture {path} cannot be read: {why}")
    assert server.calls == []
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("lora", ["ink:much", "ink:"])
def test_the_command_refuses_a_scale_that_is_no_number(capsys: pytest.CaptureFixture[str], lora: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "a fox", "--lora", lora])
    assert caught.value.code == 2
    assert "is not NAME or NAME:SCALE" in capsys.readouterr().err
