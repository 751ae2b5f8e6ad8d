"""The walls of the house: the namespace, what a bare install needs, what the documents name."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("protos", "client", "frontend", "scheduler", "worker")


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_no_source_root_closes_the_namespace(root: str) -> None:
    assert (ROOT / root / "collodion").is_dir()
    assert not (ROOT / root / "collodion" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("collodion.client", "torch diffusers transformers zmq msgspec prometheus_client numpy"),
        ("collodion.client.cli", "torch diffusers transformers zmq msgspec prometheus_client numpy"),
        ("collodion.scheduler.loop", "torch diffusers transformers grpc numpy PIL"),
        ("collodion.frontend.server", "torch diffusers transformers numpy"),
        ("collodion.worker.families.simulated", "torch diffusers transformers grpc"),
    ],
)
def test_a_process_starts_without_what_it_does_not_need(module: str, blocked: str) -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}.split())); import {module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_room_and_the_embedded_model(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for room in ("v1", "wire", "process", "client", "frontend", "scheduler", "worker"):
        assert any(name.startswith(f"collodion/{room}/") for name in names), room
    assert "collodion/v1/py.typed" in names
    assert "collodion/client/py.typed" in names
    assert "collodion/worker/shapes/model_index.json" in names
    assert sum(info.file_size for info in wheel.infolist() if "/shapes/" in info.filename) < 16 * 1024 * 1024


def test_a_bare_install_is_the_client_alone(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))).decode()
    required = {
        match.group(1).lower()
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line and (match := re.match(r".*: ([\w-]+)", line))
    }
    assert required == {"grpcio", "protobuf", "googleapis-common-protos", "pillow", "rich"}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_path_that_a_document_names_exists(document: str) -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", (ROOT / document).read_text()))
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text())
    )
    assert named <= targets
