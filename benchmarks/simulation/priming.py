"""What the scheduler knows of costs before the first report. The only place that reaches into its cost model."""

from collodion.scheduler.core import Core
from simulation.instance import Device, seconds
from simulation.truth import DECODE, ENCODE, STEP, STORE


def prime(core: Core, devices: tuple[Device, ...], store_s: float) -> None:
    """Teaches the exact profile of every kind of device: what a batch of every size takes, and storing a picture."""
    for device in {device.kind: device for device in devices}.values():
        for key, costs in device.costs.items():
            lanes = {
                lane: {batch: seconds(table, batch) for batch in range(1, most + 1)}
                for lane, table, most in (
                    (STEP, costs.step, device.max_batch),
                    (ENCODE, costs.encode, device.encode_batch),
                    (DECODE, costs.decode, device.decode_batch),
                )
            }
            if store_s:
                lanes[STORE] = {1: store_s}
            core.costs.load(device.kind, key, lanes)
