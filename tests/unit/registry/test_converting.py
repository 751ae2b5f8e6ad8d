import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from collodion.worker.registry.converting import Inert, Refused, convert, tensors_of
from collodion.worker.registry.headers import read_header


def converted(tmp_path: Path, what: Any, **how: Any) -> tuple[dict[str, torch.Tensor], list[tuple[str, Any]]]:
    """Saved as PyTorch does, converted without confining this process, and read again."""
    said: list[tuple[str, Any]] = []
    (tmp_path / "in.ckpt").write_bytes(what) if isinstance(what, bytes) else torch.save(
        what, tmp_path / "in.ckpt", **how
    )
    with (tmp_path / "in.ckpt").open("rb") as source, (tmp_path / "out.safetensors").open("wb", buffering=0) as target:
        convert(source, target, lambda event, facts: said.append((event, facts)), lambda _: None)
    read_header(tmp_path / "out.safetensors")
    return load_file(tmp_path / "out.safetensors"), said


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]


@pytest.mark.parametrize("zipped", [True, False], ids=["as of PyTorch 1.6", "as before"])
def test_every_tensor_is_what_it_was(tmp_path: Path, zipped: bool) -> None:
    # The old format knows no numbers of eight bits.
    dtypes = DTYPES if zipped else DTYPES[:-1]
    tensors = {f"layer.{dtype}": torch.randn(3, 5).to(dtype) for dtype in dtypes}
    tensors |= {
        "none": torch.zeros(0, 4),
        "one": torch.tensor(7.0),
        "turned": torch.randn(4, 6).T,
        "part": torch.randn(9)[2:5],
    }
    found, said = converted(tmp_path, {"state_dict": tensors, "epoch": 3}, _use_new_zipfile_serialization=zipped)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(bits(found[name]), bits(tensor))
    assert said[-1] == (
        "done",
        {"tensors": len(tensors), "bytes": (tmp_path / "out.safetensors").stat().st_size, "dropped": []},
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8) if tensor.itemsize == 1 else tensor


def test_flat_files_nested_ones_and_parameters_are_read(tmp_path: Path) -> None:
    assert converted(tmp_path, {"a": torch.ones(2), "note": "x"})[0].keys() == {"a"}
    assert converted(tmp_path, {"a": torch.nn.Parameter(torch.ones(2))})[0].keys() == {"a"}
    found, said = converted(tmp_path, {"state_dict": {"a": torch.ones(2), "hyper": {"lr": 1}}})
    assert (found.keys(), said[-1][1]["dropped"]) == ({"a"}, ["hyper"])


@pytest.mark.parametrize("kind", [dict, torch.nn.ParameterDict])
def test_an_embedding_becomes_one_that_web_uis_read(tmp_path: Path, kind: Any) -> None:
    vectors = torch.randn(4, 768)
    saved = {"string_to_token": {"*": 265}, "string_to_param": kind({"*": vectors}), "name": "ugly", "step": 3}
    found, _ = converted(tmp_path, saved)
    assert found.keys() == {"emb_params"}
    assert torch.equal(found["emb_params"], vectors)


class Call:
    """Pickles as a call of something by name."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_what_lightning_and_numpy_left_in_old_checkpoints_is_passed_over(tmp_path: Path) -> None:
    import numpy as np

    saved = {"state_dict": {"a": torch.ones(2)}, "loss": np.float64(3.5), "order": np.arange(3)}
    assert converted(tmp_path, saved)[0].keys() == {"a"}


@pytest.mark.parametrize("function", [os.system, eval, exec, subprocess.Popen, __import__, getattr])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_its_name_and_not_run(tmp_path: Path, function: Any, zipped: bool) -> None:
    trace = tmp_path / "trace"
    saved = {"state_dict": {"a": torch.ones(2), "b": Call(function, f"open({str(trace)!r}, 'w')")}}
    with pytest.raises(Refused, match=rf"it wants [\w.]*{function.__name__} when it is opened"):
        converted(tmp_path, saved, _use_new_zipfile_serialization=zipped)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"nothing", b"PK\x03\x04 not a zip", b"\x80\x02.", pickle.dumps({"a": 1}), pickle.dumps([1] * 9, 2)],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Refused) as refused:
        converted(tmp_path, content)
    assert "weights_only" not in str(refused.value)


def test_a_cut_off_checkpoint_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"a": torch.randn(1000)}, whole)
    for size in (10, 500, 3000, len(whole.getvalue()) - 10):
        with pytest.raises(Refused):
            converted(tmp_path, whole.getvalue()[:size])


def test_one_number_that_claims_to_be_a_million_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="many times what it has"):
        converted(tmp_path, {"a": torch.ones(1).expand(1 << 30)})


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        ([1, 2], "a list and no tensors"),
        ({"a": 1}, "no tensors by name"),
        ({"a": torch.ones(2, 2).to_sparse()}, "sparse or quantized"),
        ({"string_to_param": {}}, "another layout"),
        ({"string_to_param": Inert()}, "another layout"),
        ({"string_to_param": {"a": torch.ones(1), "b": torch.ones(1)}}, "another layout"),
    ],
)
def test_what_holds_no_plain_tensors_is_refused(loaded: Any, why: str) -> None:
    with pytest.raises(Refused, match=why):
        tensors_of(loaded)


ATTEMPTS = """
import os, socket, sys
from collodion.worker.registry import confining
network = confining.leave_network()
confining.limit(256 << 20, 60, 1 << 20)
files = confining.leave_files()
def fails(what):
    try:
        what()
    except (OSError, MemoryError) as error:
        return True
    return False
def connects():
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
tried = {
    "read": fails(lambda: open("/etc/passwd").close()),
    "write": fails(lambda: open(sys.argv[2], "w").close()),
    "execute": fails(lambda: os.execv("/bin/true", ["true"])),
    "connect": fails(connects),
    "memory": fails(lambda: bytearray(1 << 30)),
}
print(network, files, *(name for name, failed in tried.items() if not failed))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux takes it away")
def test_a_confined_process_reaches_nothing(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        argv = [sys.executable, "-c", ATTEMPTS, str(server.getsockname()[1]), str(tmp_path / "made")]
        said = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, check=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        ).stdout.split()
    network, files, *succeeded = said
    # A kernel without Landlock, or one that gives users no namespaces, leaves what it cannot take; it has to say so.
    may = ({"read", "write", "execute"} if files == "False" else set()) | (
        {"connect"} if (network, files) == ("False", "False") else set()
    )
    assert set(succeeded) <= may
    assert not (tmp_path / "made").exists() or "write" in may
