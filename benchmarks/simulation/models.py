"""Requests and models as the wire knows them."""

from collodion.wire.jobs import ModelInfo, Parameters
from simulation.instance import Instance, Request

_SAMPLER = "ddim"  # one model call a step


def parameters_of(request: Request, seed: int) -> Parameters:
    """What the request asks to be drawn."""
    model, width, height = parts_of(request.key)
    return Parameters(
        model=model,
        prompt="a picture",
        negative_prompt="",
        width=width,
        height=height,
        steps=request.evaluations,
        sampler=_SAMPLER,
        guidance_scale=7.5,
        seed=seed,
        images=request.images,
    )


def models_of(instance: Instance) -> tuple[ModelInfo, ...]:
    """Every model that a device has costs for, in order of name."""
    names = {parts_of(key)[0] for device in instance.devices for key in device.costs}
    return tuple(_model(name) for name in sorted(names))


def parts_of(key: str) -> tuple[str, int, int]:
    """Model, width and height of a batch key."""
    model, _, size = key.rpartition("/")
    width, _, height = size.partition("x")
    return model, int(width), int(height)


def _model(name: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        family="simulated",
        native_width=512,
        native_height=512,
        min_size=8,
        max_size=4096,
        size_multiple=8,
        default_steps=30,
        max_steps=1000,
        default_sampler=_SAMPLER,
        samplers=(_SAMPLER,),
        default_guidance_scale=7.5,
        max_prompt_tokens=77,
        dtype="float16",
    )
