"""What batches really take on a device: its cost tables, a constant bias, and noise of each batch alone.

The scheduler is never told of bias and noise; it sees the samples that workers report.
"""

import random

from simulation.instance import Device, seconds

STEP, ENCODE, DECODE, STORE = "step", "encode", "decode", "store"

_LEAST_FACTOR = 0.1  # noise may not turn a batch's time negative


class Truth:
    """One device's. `noise` is the standard deviation of a batch's factor around `1 + bias`."""

    def __init__(self, device: Device, bias: float, noise: float, seed: str) -> None:
        self._tables = {
            (lane, key): tuple((1.0 + bias) * seconds(table, batch) for batch in range(1, most + 1))
            for key, costs in device.costs.items()
            for lane, table, most in (
                (STEP, costs.step, device.max_batch),
                (ENCODE, costs.encode, device.encode_batch),
                (DECODE, costs.decode, device.decode_batch),
            )
        }
        self._noise = noise
        self._random = random.Random(seed)

    @property
    def exact(self) -> bool:
        """Whether equal batches take equal times."""
        return not self._noise

    def durations(self, lane: str, key: str, batch: int, count: int = 1) -> list[float]:
        """Seconds of each of `count` batches, one after the other."""
        each = self._tables[lane, key][batch - 1]
        if not self._noise:
            return [each] * count
        gauss = self._random.gauss
        return [each * max(_LEAST_FACTOR, gauss(1.0, self._noise)) for _ in range(count)]
