"""The classes of service that a server has, as frozen values."""

from dataclasses import dataclass

from collodion.client.convert import seconds_of
from collodion.v1 import tier_pb2


@dataclass(frozen=True)
class Tier:
    """A named class of service.

    A job that names no SLO of its own gets its tier's: `slo_s` seconds after acceptance, or `slo_scale` times what it
    would take alone on the fastest device that can run it. A tier with neither has no deadline. `weight` is what one
    of its jobs finished on time is worth beside one of another tier.
    """

    name: str
    is_default: bool
    slo_s: float | None
    slo_scale: float | None
    weight: float

    @classmethod
    def of(cls, message: tier_pb2.Tier) -> "Tier":
        """From the protobuf message."""
        return cls(
            name=message.name,
            is_default=message.is_default,
            slo_s=seconds_of(message.slo) if message.HasField("slo") else None,
            slo_scale=message.slo_scale if message.HasField("slo_scale") else None,
            weight=message.weight,
        )
