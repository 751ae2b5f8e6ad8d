"""Requests that begin from a picture: their fields, the size at which they are drawn, and that a step is left to run.

A picture is decoded and stored only once everything else is right; until then NOT_STORED_YET is in the place of its key.
"""

import math

import msgspec

from collodion.frontend.fields import Fields, decimal
from collodion.frontend.pictures import MAX_BYTES
from collodion.frontend.uploads import Sent, Upload
from collodion.v1 import generation_pb2, job_pb2
from collodion.wire.jobs import JobSpec, ModelInfo, Parameters

DEFAULT_STRENGTH = 0.8
NOT_STORED_YET = "?"
_PATH = "job.parameters."


def check_pictures(check: Fields, given: job_pb2.Parameters, sent: Sent, info: ModelInfo | None) -> None:
    """Which pictures there are, and whether the model takes them; not what is in them."""
    for name, data in sent._asdict().items():
        if len(data) > MAX_BYTES:
            check.wrong(f"{_PATH}{name}", f"has {len(data) / 2**20:.1f} MiB; at most {MAX_BYTES // 2**20}")
        if getattr(given, f"{name}_sha256"):
            check.wrong(f"{_PATH}{name}_sha256", f"is set by the server; send the picture itself, as {name}")
    if not sent.init_image:
        for name, is_given in (("mask_image", bool(sent.mask_image)), ("strength", given.HasField("strength"))):
            if is_given:
                check.wrong(f"{_PATH}{name}", "needs init_image")
    elif info is not None and not info.init_images:
        check.wrong(f"{_PATH}init_image", f"model {info.name} begins from noise only")
    elif info is not None and sent.mask_image and not info.masks:
        check.wrong(f"{_PATH}mask_image", f"model {info.name} takes no masks")


def strength(check: Fields, given: job_pb2.Parameters) -> float:
    """How far to depart from the picture."""
    if not given.HasField("strength"):
        return DEFAULT_STRENGTH
    asked = decimal(given.strength)
    if not 0 < asked <= 1:
        check.wrong(f"{_PATH}strength", f"has to be more than 0 and at most 1, not {asked:g}")
        return DEFAULT_STRENGTH
    return asked


def check_runs_a_step(check: Fields, request: generation_pb2.JobRequest, parameters: Parameters) -> None:
    """Of the steps that are asked for, and of those that may be granted instead, at least one has to be run."""
    steps, least = parameters.steps, parameters.least_steps
    if steps < least:
        message = f"leaves none of {steps} steps to run; ask for at least {least} steps, or for more strength"
        check.wrong(f"{_PATH}strength", message)
    elif request.deadline_policy == job_pb2.DEADLINE_POLICY_DEGRADE and 0 < request.min_steps < least:
        check.wrong("job.min_steps", f"has to be at least {least}: of fewer this strength leaves none to run")


def begun(
    spec: JobSpec, given: job_pb2.Parameters, info: ModelInfo, init_image: Upload, mask_image: Upload | None
) -> JobSpec:
    """The job, beginning from pictures that are stored; where no size was `given`, it takes the picture's."""
    width, height = fitting((init_image.width, init_image.height), info, given.width, given.height)
    parameters = msgspec.structs.replace(
        spec.parameters,
        init_image=init_image.key,
        mask_image=mask_image.key if mask_image else "",
        width=width,
        height=height,
    )
    return msgspec.structs.replace(spec, parameters=parameters)


def fitting(picture: tuple[int, int], info: ModelInfo, width: int = 0, height: int = 0) -> tuple[int, int]:
    """The width and height at which to draw what begins from a picture of this size; 0 is a side that is left open.

    It is the picture's own size, smaller or larger in its proportions if the model cannot draw that, and rounded to what it can. One
    side that is given decides the other.
    """
    across, down = picture
    if width or height:
        scale = width / across if width else height / down
    else:
        scale = min(max(1.0, info.min_size / min(picture)), info.max_size / max(picture))
    return width or _drawable(across * scale, info), height or _drawable(down * scale, info)


def _drawable(side: float, info: ModelInfo) -> int:
    multiple = info.size_multiple
    least, most = math.ceil(info.min_size / multiple), info.max_size // multiple
    return min(max(round(side / multiple), least), most) * multiple
