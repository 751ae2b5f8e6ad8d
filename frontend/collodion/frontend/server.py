"""The gRPC server: what it listens on, its services, its health, and its end.

The order of the end: health says NOT_SERVING and new work is turned away; what runs may finish within `drain_s`; then the rest
is cut off, and only when no handler is left does the link to the scheduler close.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from collodion.frontend import generation, models
from collodion.frontend.config import Config
from collodion.frontend.generation import GenerationService
from collodion.frontend.images import Images
from collodion.frontend.link import Link
from collodion.frontend.metrics import Metrics
from collodion.frontend.models import ModelService
from collodion.frontend.rpc import Gate
from collodion.frontend.uploads import Uploads
from collodion.process.config import ConfigError
from collodion.process.metrics import new_registry, serve_metrics
from collodion.process.running import announced
from collodion.wire.artifacts import DirectoryStore

SERVICES = (generation.NAME, models.NAME, models.ADMIN_NAME)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_CUT_OFF_S = 1.0  # for cancelled handlers to say LeaveJob
_log = logging.getLogger(__name__)


class Frontend:
    """One frontend on the running loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.registry = new_registry()
        self.address = ""
        metrics = Metrics(self.registry)
        self._health = health.aio.HealthServicer()
        self._health_changes: set[asyncio.Task[None]] = set()
        self._draining = False
        self._gate = Gate(metrics)
        store = DirectoryStore(config.artifacts)
        self._images = Images(store, config.inline_budget_bytes, metrics)
        self._uploads = Uploads(store, config, metrics)
        self._server = grpc.aio.server(options=_options(config))
        self._link = Link(config, metrics, self._tell_health)
        self._add_services(metrics)
        self._tell_health(False)

    async def start(self) -> None:
        """Listens; `address` says where. Raises ConfigError if it cannot."""
        host, _, _ = self.config.listen.rpartition(":")
        try:
            port = self._server.add_insecure_port(self.config.listen)
        except RuntimeError as error:
            raise ConfigError(f"listen: cannot listen on {self.config.listen}: {error}") from error
        # For a Unix socket gRPC returns a port too, which means nothing.
        self.address = self.config.listen if host == "unix" else f"{host}:{port}"
        await self._server.start()

    async def drain(self) -> None:
        """Turns new work away and waits for the open calls, for `drain_s` at most."""
        self._tell_health(False)
        self._draining = True
        self._gate.close()
        _log.info("draining")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gate.idle(), self.config.drain_s)

    async def stop(self) -> None:
        """Cuts off what still runs, and closes everything."""
        await self._server.stop(0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gate.idle(), _CUT_OFF_S)
        self._link.close()
        self._uploads.close()
        self._images.close()

    def _add_services(self, metrics: Metrics) -> None:
        service = GenerationService(self.config, self._link, self._images, self._uploads, metrics)
        handlers = {
            generation.NAME: service.handlers(self._gate),
            models.NAME: ModelService(self._link).handlers(self._gate),
            models.ADMIN_NAME: models.admin_handlers(self._gate),
        }
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in handlers.items())
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def _tell_health(self, reachable: bool) -> None:
        if self._draining:
            return
        status = _SERVING if reachable else _NOT_SERVING
        task = asyncio.get_running_loop().create_task(self._set_health(status))
        self._health_changes.add(task)
        task.add_done_callback(self._health_changes.discard)

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)


async def serve(config: Config) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal cuts the draining short. Raises ConfigError, OSError."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    frontend = Frontend(config)
    try:
        await frontend.start()
        port = serve_metrics(frontend.registry, config.metrics_host, config.metrics_port)
        metrics = f"{config.metrics_host}:{port}"
        facts = {"grpc": frontend.address, "metrics": metrics, "drain_s": config.drain_s}
        with announced(config.run_dir, config.name, **facts):
            _log.info("serving", extra={"grpc": frontend.address, "metrics": metrics})
            await signals.get()
        await _first_of(frontend.drain(), signals.get())
    finally:
        await frontend.stop()


async def _first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _options(config: Config) -> list[tuple[str, int]]:
    return [
        # Above what all fields at their bounds take (two pictures of 16 MiB), so that a field that is too long is told by its name.
        ("grpc.max_receive_message_length", 40 * 1024 * 1024),
        ("grpc.so_reuseport", int(config.reuse_port)),
        # A client whose machine died sends no reset: it is asked, and counts as hung up after 30 s.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]
