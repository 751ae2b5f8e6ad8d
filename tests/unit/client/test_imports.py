"""A bare install is the client: it needs nothing of the server's libraries."""

import subprocess
import sys

BLOCKED = (
    "torch",
    "diffusers",
    "transformers",
    "zmq",
    "msgspec",
    "prometheus_client",
    "uvloop",
    "numpy",
    "safetensors",
)


def test_the_client_and_its_command_import_without_the_servers_libraries() -> None:
    program = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import collodion.client, collodion.client.cli
collodion.client.cli.main(["jobs", "--help"])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "usage: collodion jobs" in result.stdout


def test_the_command_sets_what_grpc_reads_before_it_is_imported_and_the_library_sets_nothing() -> None:
    program = """
import os, sys
os.environ.pop("GRPC_VERBOSITY", None)
import collodion.command
assert "grpc" not in sys.modules
import collodion.client.cli
assert "GRPC_VERBOSITY" not in os.environ
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_running_a_server_without_its_libraries_says_what_to_install() -> None:
    program = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("zmq", "torch") else found(name)
from collodion.client.cli import main
sys.exit(main(["serve"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr == "collodion: the scheduler needs zmq: pip install 'collodion[all]'\n"
