"""What holds for all tests."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Benchmarks that run within a test silence the logs; the next test reads them."""
    logger = logging.getLogger("collodion")
    level = logger.level
    yield
    logger.setLevel(level)
