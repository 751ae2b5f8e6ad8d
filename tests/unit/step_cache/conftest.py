"""These tests share a walk of a few latents, and the tiny models and adapters of other tests."""

import sys
from pathlib import Path

_UNIT = Path(__file__).parents[1]
sys.path[:0] = [str(_UNIT / folder) for folder in ("step_cache", "worker/families", "adapters")]
