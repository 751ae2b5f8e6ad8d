"""Loading, unloading and listing models and adapters with both clients and the command, against a server that says what it is told to."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from collodion.client import AdapterKind, ModelUnusable, NotFound, Residency, TimedOut
from collodion.client.cli.main import main
from collodion.client.loading import Awaited
from collodion.client.models import Model
from collodion.v1 import model_pb2
from tests.integration import fake_server as fake
from tests.integration.both_clients import Async, Blocking
from tests.integration.fake_server import Error, FakeServer

RESIDENT = fake.placed(model_pb2.RESIDENCY_RESIDENT)
ON_DISK = fake.placed(model_pb2.RESIDENCY_ON_DISK)


def loading(progress: float) -> model_pb2.Model:
    return fake.placed(model_pb2.RESIDENCY_LOADING, progress)


def failing(why: str) -> model_pb2.Model:
    return fake.placed(model_pb2.RESIDENCY_FAILED, failure=why)


def script(server: FakeServer, first: model_pb2.Model, *then: model_pb2.Model) -> None:
    """What LoadModel answers, and what is then seen, one look after the other."""
    server.script("LoadModel", model_pb2.LoadModelResponse(model=first))
    if then:
        server.script("GetModel", *(model_pb2.GetModelResponse(model=model) for model in then))


@pytest.fixture(params=[Blocking(), Async()], ids=["blocking", "async"])
def call(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer() as server:
        monkeypatch.setenv("COLLODION_SERVER", server.address)
        yield server


def test_where_a_model_is_can_be_read(server: FakeServer, call: Any) -> None:
    server.script("ListModels", model_pb2.ListModelsResponse(models=[loading(0.5), failing("it is cut off")]))
    first, second = call(server, "models")
    assert (first.status.residency, first.status.progress, first.status.load_s) == (
        Residency.LOADING,
        0.5,
        pytest.approx(0.1),
    )
    assert (first.status.size_bytes, first.status.pinned) == (3 << 20, True)
    assert (second.status.residency, second.status.failure) == (Residency.FAILED, "it is cut off")


def test_loading_waits_until_the_model_is_in_memory_and_tells_how_far_it_is(server: FakeServer, call: Any) -> None:
    script(server, ON_DISK, loading(0.25), loading(0.75), RESIDENT)
    seen: list[float] = []
    model = call(server, "load_model", "shapes", on_progress=lambda model: seen.append(model.status.progress))
    assert model.status.residency is Residency.RESIDENT
    assert seen == [0.0, 0.25, 0.75]
    assert [request.name for request in server.asked("LoadModel")] == ["shapes"]


def test_loading_need_not_be_waited_for(server: FakeServer, call: Any) -> None:
    script(server, loading(0.0))
    assert call(server, "load_model", "shapes", wait=False).status.residency is Residency.LOADING
    assert server.asked("GetModel") == []


def test_a_model_that_cannot_be_loaded_is_an_error_that_says_why(server: FakeServer, call: Any) -> None:
    script(server, loading(0.0), failing("shapes.safetensors is cut off"))
    with pytest.raises(ModelUnusable, match=r"shapes\.safetensors is cut off"):
        call(server, "load_model", "shapes")


def test_patience_may_end() -> None:
    awaited = Awaited(1.0, now=5.0)
    assert awaited.pause_s(Model.of(ON_DISK), 5.99) == pytest.approx(0.01)
    with pytest.raises(TimedOut, match="loading, 50% done"):
        awaited.pause_s(Model.of(loading(0.5)), 6.0)


def test_a_model_that_somebody_unloads_meanwhile_is_not_waited_for_in_vain() -> None:
    awaited = Awaited(None, now=0.0)
    unpinned = model_pb2.Model(name="shapes", status=model_pb2.ModelStatus(residency=model_pb2.RESIDENCY_ON_DISK))
    assert awaited.pause_s(Model.of(loading(0.5)), 1.0)
    assert awaited.pause_s(Model.of(unpinned), 2.0)  # another frontend may not know yet
    assert awaited.pause_s(Model.of(ON_DISK), 4.0)
    assert awaited.pause_s(Model.of(unpinned), 5.0)
    with pytest.raises(ModelUnusable, match="was unloaded"):
        awaited.pause_s(Model.of(unpinned), 7.0)


def test_a_model_whose_workers_are_gone_is_waited_for() -> None:
    awaited = Awaited(9.0, now=0.0)
    awaited.pause_s(Model.of(loading(0.5)), 1.0)
    gone = Model.of(model_pb2.Model(name="shapes"))
    assert awaited.pause_s(gone, 2.0)
    assert awaited.pause_s(gone, 8.0)
    with pytest.raises(TimedOut, match="no worker"):
        awaited.pause_s(gone, 9.0)


def test_what_takes_long_is_looked_at_less_often() -> None:
    awaited, slow = Awaited(None, now=0.0), loading(0.0)
    slow.status.load_seconds = 60.0
    pauses = [awaited.pause_s(Model.of(model), 1e6) for model in (loading(0.0), slow)]
    assert pauses == [0.05, 0.5]


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", NotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "MODEL_TOO_LARGE", ModelUnusable),
        (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNUSABLE", ModelUnusable),
    ],
)
def test_what_the_server_refuses_is_an_error(server: FakeServer, call: Any, code: Any, reason: str, kind: Any) -> None:
    server.script("LoadModel", Error(code, "it is so", reason))
    with pytest.raises(kind, match="it is so"):
        call(server, "load_model", "shapes")
    assert len(server.asked("LoadModel")) == 1


def test_a_model_is_unloaded_and_adapters_are_listed(server: FakeServer, call: Any) -> None:
    server.script("UnloadModel", model_pb2.UnloadModelResponse(model=ON_DISK))
    adapter = model_pb2.Adapter(name="ink", kind=model_pb2.ADAPTER_KIND_LOW_RANK, base="sd1", size_bytes=9)
    server.script("ListAdapters", model_pb2.ListAdaptersResponse(adapters=[adapter]))
    assert call(server, "unload_model", "shapes").status.residency is Residency.ON_DISK
    (listed,) = call(server, "adapters")
    assert (listed.name, listed.kind, listed.base, listed.size_bytes) == ("ink", AdapterKind.LOW_RANK, "sd1", 9)


# ------------------------------------------------------------------ the command


def test_the_list_says_where_models_are(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    broken = model_pb2.Model(name="broken", status=failing("it is cut off").status)
    server.script("ListModels", model_pb2.ListModelsResponse(models=[RESIDENT, loading(0.4), ON_DISK, broken]))
    assert main(["models"]) == 0
    cells = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[2], row[3]) for row in cells] == [
        ("shapes (default)", "in memory (pinned)", "3.0 MiB"),
        ("shapes (default)", "loading, 40% (pinned)", "3.0 MiB"),
        ("shapes (default)", "on disk (pinned)", "3.0 MiB"),
        ("broken", "unusable: it is cut off (pinned)", "3.0 MiB"),
    ]
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[1])["status"]["residency"] == "loading"


def test_the_list_says_what_a_request_may_ask_of_each_model(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [fake.model(step_cache=True, init_images=True), fake.model()]
    server.script("ListModels", model_pb2.ListModelsResponse(models=both))
    assert main(["models"]) == 0
    assert [line.split("\t")[-1] for line in capsys.readouterr().out.splitlines()] == ["init-image, step-cache", ""]


def test_a_model_is_described_with_what_makes_it_fast(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    optimized = fake.model(
        step_cache=True,
        loras=True,
        status=model_pb2.ModelStatus(
            residency=model_pb2.RESIDENCY_RESIDENT,
            size_bytes=3 << 20,
            optimizations=[
                model_pb2.Optimization(name="attention", value="xformers", detail="32 of 32 attentions"),
                model_pb2.Optimization(name="cuda_graphs", value="on", detail="6 captured"),
            ],
        ),
    )
    server.script("GetModel", *[model_pb2.GetModelResponse(model=optimized)] * 2)
    assert main(["models", "describe", "shapes"]) == 0
    facts, _, table = capsys.readouterr().out.partition("\n\n")
    said = dict(line.split("\t") for line in facts.splitlines())
    assert (said["name"], said["where"], said["memory"]) == ("shapes (default)", "in memory", "3.0 MiB")
    assert said["takes"] == "lora, step-cache"
    assert table == "attention\txformers\t32 of 32 attentions\ncuda_graphs\ton\t6 captured\n"
    assert main(["models", "describe", "shapes", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)["status"]
    assert status["optimizations"][1] == {"name": "cuda_graphs", "value": "on", "detail": "6 captured"}
    assert [request.name for request in server.asked("GetModel")] == ["shapes", "shapes"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (RESIDENT, "optimisations\tnone"),
        (ON_DISK, "optimisations\ttold once it is in memory"),
        (model_pb2.Model(name="broken", status=failing("it is cut off").status), ""),
    ],
    ids=["resident", "on disk", "broken"],
)
def test_a_model_with_nothing_that_makes_it_fast_says_why(
    server: FakeServer, capsys: pytest.CaptureFixture[str], model: model_pb2.Model, said: str
) -> None:
    server.script("GetModel", model_pb2.GetModelResponse(model=model))
    assert main(["models", "describe", "it"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("optim")] == ([said] if said else [])
    assert any(line.startswith("where\t") for line in lines)


def test_a_model_that_is_not_there_cannot_be_described(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.script("GetModel", Error(grpc.StatusCode.NOT_FOUND, "no model 'nowhere'", "MODEL_NOT_FOUND"))
    assert main(["models", "describe", "nowhere"]) == 2
    assert capsys.readouterr().err == "collodion: no model 'nowhere'\n"


def test_a_model_is_loaded_by_the_command(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    script(server, loading(0.0), RESIDENT)
    assert main(["models", "load", "shapes"]) == 0
    assert capsys.readouterr().out == "shapes is in memory (pinned)\n"
    script(server, loading(0.0))
    assert main(["models", "load", "shapes", "--no-wait"]) == 0
    assert capsys.readouterr().out == "shapes is loading, 0% (pinned)\n"


def test_loading_by_the_command_fails_with_the_reason(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    script(server, failing("shapes.safetensors is cut off"))
    assert main(["models", "load", "shapes"]) == 2
    assert capsys.readouterr().err == "collodion: shapes.safetensors is cut off\n"
    script(server, loading(0.0), *[loading(0.5)] * 20)
    assert main(["models", "load", "shapes", "--patience", "0.1"]) == 3
    assert "is not in memory yet; it is loading, 50% done" in capsys.readouterr().err


def test_unloading_says_whether_it_happened_yet(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.script("UnloadModel", model_pb2.UnloadModelResponse(model=RESIDENT))
    assert main(["models", "unload", "shapes"]) == 0
    assert capsys.readouterr().out == "shapes leaves the memory when nothing runs on it any more\n"
    server.script("UnloadModel", model_pb2.UnloadModelResponse(model=ON_DISK))
    assert main(["models", "unload", "shapes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"]["residency"] == "on_disk"


def test_flags_for_the_server_may_stand_before_and_after_the_action(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLLODION_SERVER", "127.0.0.1:1")
    script(server, RESIDENT)
    assert main(["models", "--server", server.address, "--json", "load", "shapes"]) == 0
    assert main(["models", "load", "shapes", "--server", server.address, "--json"]) == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["shapes", "shapes"]


def test_adapters_are_listed_by_the_command(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = model_pb2.Adapter(name="ink", kind=model_pb2.ADAPTER_KIND_LOW_RANK, base="sd1", size_bytes=5 << 30)
    server.script("ListAdapters", model_pb2.ListAdaptersResponse(adapters=[adapter]))
    assert main(["adapters"]) == 0
    assert capsys.readouterr().out == "ink\tlow rank\tsd1\t5.0 GiB\n"
