"""The picture of the states is the table's."""

from pathlib import Path
from typing import Any

import pytest

from collodion.scheduler.transitions import JOB_TRANSITIONS, LATENT_TRANSITIONS, diagram

STATES = Path(__file__).resolve().parents[2] / "docs" / "states.md"


@pytest.mark.parametrize("table", [JOB_TRANSITIONS, LATENT_TRANSITIONS], ids=["job", "latent"])
def test_the_drawn_states_are_those_of_the_table(table: Any) -> None:
    assert diagram(table).strip() in STATES.read_text()
