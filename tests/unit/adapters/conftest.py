"""Lets the tests of this folder import what they share, and keeps diffusers quiet."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    from collodion.worker.families.loading import quieten

    quieten()
