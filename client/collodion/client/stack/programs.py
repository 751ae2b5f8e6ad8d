"""Which processes a server has, and their command lines."""

import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from collodion.client.stack.child import Program, Role
from collodion.client.stack.errors import StackError

_SHARED = ("msgspec", "prometheus_client", "zmq")
_NEEDED: dict[Role, tuple[str, ...]] = {
    Role.SCHEDULER: _SHARED,
    Role.FRONTEND: (*_SHARED, "grpc_health", "grpc_reflection", "uvloop"),
    Role.WORKER: _SHARED,
}
_NEEDED_BY_MODELS = ("torch", "diffusers", "transformers", "safetensors")
_SIMULATED = "simulated"
_NONE = ","  # a list of nothing; an empty flag would be left to the configuration

_NOT_BY_SET = {
    "name": "processes are found by the names that the server gives them",
    "run_dir": "all processes have the same one; choose it by --run-dir",
}

Setting = tuple[str, str, str]
"""Process, name and value of a setting, as `--set worker.max_batch=4` gives it."""


@dataclass(frozen=True)
class Stack:
    """A server as it is asked for. What is empty is left to the processes' own configuration: environment, file, defaults."""

    models: Sequence[str] = ()
    models_dir: Path | None = None
    devices: Sequence[str] = ()
    optimize: Sequence[str] = ()
    listen: str = ""
    frontends: int = 1
    drain_s: float | None = None
    policy: str = ""
    artifacts: Path | None = None
    config: Path | None = None
    log_format: str = ""
    log_level: str = ""
    settings: Sequence[Setting] = ()

    def programs(self, run_dir: Path) -> list[Program]:
        """Its processes, in the order of starting; the order does not matter to them.

        Raises:
            StackError: they could not be found, or could not share a port.
        """
        self._check_port()
        workers = len(self.devices) or 1
        return [
            self._program(Role.SCHEDULER, "scheduler", run_dir, {"policy": self.policy}),
            *(self._frontend(index, run_dir) for index in range(self.frontends)),
            *(self._worker(index, run_dir) for index in range(workers)),
        ]

    def check_installation(self) -> None:
        """Looks for what the processes import, without importing it.

        Raises:
            StackError: something is not installed; the message says how to install it.
        """
        for role in Role:
            needed = _NEEDED[role]
            if role is Role.WORKER and self._draws_for_real():
                needed += _NEEDED_BY_MODELS
            missing = [module for module in needed if importlib.util.find_spec(module) is None]
            if missing:
                raise StackError(
                    f"the {role.name.lower()} needs {', '.join(missing)}: pip install 'collodion[all]'", is_yours=True
                )

    def _draws_for_real(self) -> bool:
        """Whether a model is certain to need torch. If the models are chosen elsewhere, the worker itself will say."""
        elsewhere = self.config or "COLLODION_WORKER_MODELS" in os.environ or self.settings
        return set(self.models) != {_SIMULATED} and bool(self.models or not elsewhere)

    def _check_port(self) -> None:
        chosen = self._chosen("frontend").get("listen") or self.listen
        listen = chosen or os.environ.get("COLLODION_FRONTEND_LISTEN", "")
        if self.frontends > 1 and re.search(":0+$", listen):
            raise StackError(
                f"{self.frontends} frontends share one port, and {listen} would give each its own; choose one by --listen",
                is_yours=True,
            )

    def _chosen(self, process: str) -> dict[str, str]:
        chosen = {name.replace("-", "_"): value for of, name, value in self.settings if of == process}
        for name, why in _NOT_BY_SET.items():
            if name in chosen:
                raise StackError(f"--set {process}.{name} cannot be used: {why}", is_yours=True)
        return chosen

    def _frontend(self, index: int, run_dir: Path) -> Program:
        flags = {
            "listen": self.listen,
            "reuse_port": "true" if self.frontends > 1 else "",
            "drain_s": "" if self.drain_s is None else str(self.drain_s),
        }
        return self._program(Role.FRONTEND, f"frontend-{index}", run_dir, flags | _metrics(index))

    def _worker(self, index: int, run_dir: Path) -> Program:
        device = self.devices[index] if self.devices else ""
        flags = {"device": device, "models": ",".join(self.models), "optimize": ",".join(self.optimize)}
        flags |= _metrics(index)
        if self.models_dir is not None:
            # Whoever brings models of their own does not want ours to be the default one.
            flags |= {"models_dir": str(self.models_dir.absolute()), "models": ",".join(self.models) or _NONE}
        return self._program(Role.WORKER, f"worker-{index}", run_dir, flags)

    def _program(self, role: Role, name: str, run_dir: Path, flags: Mapping[str, str]) -> Program:
        process = role.value.rpartition(".")[2]
        shared = {
            "run_dir": str(run_dir),
            "artifacts": str(self.artifacts or ""),
            "config": str(self.config or ""),
            "log_format": self.log_format,
            "log_level": self.log_level,
            "name": "" if role is Role.SCHEDULER else name,
        }
        chosen = self._chosen(process)
        every = {flag: value for flag, value in (shared | dict(flags)).items() if value} | chosen
        options = (f"--{flag.replace('_', '-')}={value}" for flag, value in every.items())
        return Program(name, role, (sys.executable, "-m", role.value, *options))


def _metrics(index: int) -> dict[str, str]:
    # The first of its role has the port of its configuration; it announces the one it got.
    return {"metrics_port": "0"} if index else {}
