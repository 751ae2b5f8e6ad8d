"""The Prometheus endpoint of a process."""

import socket

import pytest

from collodion.process.config import ConfigError
from collodion.process.metrics import new_registry, serve_metrics


def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"metrics_port: cannot listen on 127.0.0.1:{port}: "):
            serve_metrics(new_registry(), "127.0.0.1", port)
