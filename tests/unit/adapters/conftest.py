"""Lets the tests of this folder import what they share, and keeps diffusers quiet."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
