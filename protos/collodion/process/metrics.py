"""The Prometheus endpoint that each process has, on loopback unless told otherwise."""

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from collodion.process.config import ConfigError


def new_registry() -> CollectorRegistry:
    """A registry of this process's own, with its memory, CPU seconds and Python version."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> int:
    """Serves `registry` at http://host:port/metrics on a daemon thread; port 0 takes any free one. Returns the port.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigError(f"metrics_port: cannot listen on {host}:{port}: {error.strerror}") from error
    return int(server.server_port)
