"""The worker as a process of its own, with the simulated family."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collodion.process.running import announcement
from collodion.wire.jobs import LatentId, Stage
from collodion.wire.to_scheduler import WorkerLeft

_BLOCKED = "import sys; sys.modules['torch'] = sys.modules['diffusers'] = sys.modules['transformers'] = None; "
_RUN = "import runpy; runpy.run_module('collodion.worker', run_name='__main__')"


def _start(tmp_path, *flags, code=_RUN):
    places = [f"--run-dir={tmp_path}", f"--artifacts={tmp_path / 'artifacts'}", "--metrics-port=0"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *places, "--simulated-step-ms=1", "--beat-s=0.2", *flags],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_picture_is_drawn_without_torch_and_sigterm_ends_the_worker_in_order(tmp_path: Path, scheduler, order):
    process = _start(tmp_path, "--models=simulated", code=_BLOCKED + _RUN)
    try:
        state = scheduler.hello()
        assert [model.family for model in state.models] == ["simulated"]
        latent = LatentId("job", 0)
        scheduler.wish(running=(latent,), orders=(order(),))
        image = scheduler.latent(latent, Stage.DONE).image
        data = (tmp_path / "artifacts" / image.key).read_bytes()
        assert (image.sha256, image.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert announcement(tmp_path, "worker-0")["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        scheduler.hear(lambda message: isinstance(message, WorkerLeft))
        assert process.wait(10) == 0
        assert announcement(tmp_path, "worker-0") is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--models=mine=/nowhere/at/all", "/nowhere/at/all"),
        ("--models=unheard-of", "unheard-of"),
        ("--models=simulated,simulated", "each once"),
        ("--simulated-step-ms=ten", "BATCH:MS"),
        ("--simulated-decode-ms=1:5,ten", "simulated_decode_ms"),
    ],
)
def test_an_unusable_configuration_ends_it_with_code_2_and_a_sentence(tmp_path, flag, sentence):
    process = _start(tmp_path, "--models=simulated", flag)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert sentence in errors
    assert "Traceback" not in errors
