"""Requests as clients send them, checked against a catalogue of two models: `shapes` does little, `artist` all that can be asked for."""

from typing import Any

import msgspec
import pytest

from collodion.frontend import validate
from collodion.frontend.errors import CallError
from collodion.frontend.fields import Fields
from collodion.frontend.uploads import Sent
from collodion.v1 import generation_pb2
from collodion.wire.jobs import AdapterInfo, AdapterKind, JobSpec, ModelInfo, Parameters, RefusedSampler
from collodion.wire.to_frontend import Catalogue, TierInfo

MODEL = ModelInfo(
    name="shapes",
    family="stable-diffusion",
    native_width=128,
    native_height=96,
    min_size=64,
    max_size=512,
    size_multiple=8,
    default_steps=20,
    max_steps=50,
    default_sampler="ddim",
    samplers=("ddim", "euler"),
    default_guidance_scale=3.0,
    max_prompt_tokens=77,
    dtype="float32",
    refused_samplers=(RefusedSampler("lcm", "needs a distilled model"),),
)
ARTIST = msgspec.structs.replace(
    MODEL,
    name="artist",
    base="sd1",
    init_images=True,
    masks=True,
    loras=True,
    weighted_prompts=True,
    step_cache=True,
)
ADAPTERS = (
    AdapterInfo("ink", AdapterKind.LOW_RANK, "sd1"),
    AdapterInfo("wool", AdapterKind.WHOLE, "sd1"),
    AdapterInfo("anything", AdapterKind.LOW_RANK),
    AdapterInfo("big", AdapterKind.LOW_RANK, "sdxl"),
    AdapterInfo("glow", AdapterKind.EMBEDDING, "sd1"),
    *(AdapterInfo(f"style-{number}", AdapterKind.LOW_RANK) for number in range(8)),
)
CATALOGUE = Catalogue(
    ((MODEL, 1), (ARTIST, 1)),
    (TierInfo("standard", 60.0), TierInfo("batch")),
    "shapes",
    "standard",
    adapters=ADAPTERS,
)
UUID = "123E4567-e89b-12d3-a456-426614174000"


def spec(metadata: Any = (), catalogue: Catalogue = CATALOGUE, **job: Any) -> JobSpec:
    sent, request = Sent.taken(generation_pb2.JobRequest(**job))
    return validate.job_spec(Fields(), request, sent, metadata, catalogue, max_images=16)


def parameters(**fields: Any) -> Parameters:
    return spec(parameters=fields).parameters


def refused(metadata: Any = (), catalogue: Catalogue = CATALOGUE, **job: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        spec(metadata, catalogue, **job)
    return caught.value


def violations(error: CallError) -> dict[str, str]:
    """What is wrong, by the field's name below the parameters."""
    return {field.removeprefix("job.parameters."): description for field, description in error.violations}
