"""`collodion serve` with small fake processes instead of the real ones: `python fake_stack.py RUN_DIR [NAME=BEHAVIOUR …]`.

Each fake announces itself and ends on SIGTERM, noting its name in RUN_DIR/ended. BEHAVIOUR: `stubborn` ignores
SIGTERM, `refuses` exits with code 2, `dies` exits with code 1, both before it is ready.
"""

import functools
import os
import signal
import sys
import threading
from pathlib import Path

from collodion.process.running import announced


def child(run_dir: Path, name: str, behaviour: str) -> int:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if behaviour == "stubborn" else stop.set())
    if behaviour in ("refuses", "dies"):
        print(f"{name} {behaviour}", file=sys.stderr)
        return {"refuses": 2, "dies": 1}[behaviour]
    facts: dict[str, object] = {"device": "cpu", "models": ["fake"]}
    if name.startswith("frontend"):
        facts = {"grpc": "127.0.0.1:12345", "drain_s": 30.0}
    with announced(run_dir, name, **facts):
        stop.wait()
    with (run_dir / "ended").open("a") as file:
        file.write(f"{name}\n")
    return 0


def serve(run_dir: Path, behaviours: dict[str, str]) -> int:
    from collodion.client.cli import main
    from collodion.client.cli import serve as serving
    from collodion.client.stack import supervisor as supervising
    from collodion.client.stack.child import Program, Role
    from collodion.client.stack.programs import Stack
    from collodion.client.stack.restarts import RestartPolicy
    from collodion.client.stack.supervisor import Supervisor

    def programs(_: Stack, run_dir: Path) -> list[Program]:
        roles = {"scheduler": Role.SCHEDULER, "frontend-0": Role.FRONTEND, "worker-0": Role.WORKER}
        command = (sys.executable, __file__, "--child", str(run_dir))
        return [Program(name, role, (*command, name, behaviours.get(name, ""))) for name, role in roles.items()]

    Stack.programs = programs  # type: ignore[method-assign]
    quick = RestartPolicy(initial_s=0.01, longest_s=0.05)
    serving.Supervisor = functools.partial(  # type: ignore[misc, assignment]
        Supervisor, policy=quick
    )
    supervising._GRACE_S = 0.0
    supervising._OTHERS_S = 0.5
    return main(["serve", "--run-dir", str(run_dir)])


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        sys.exit(child(Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
    os.environ.pop("COLLODION_SERVER", None)
    sys.exit(serve(Path(sys.argv[1]), dict(pair.split("=") for pair in sys.argv[2:])))
