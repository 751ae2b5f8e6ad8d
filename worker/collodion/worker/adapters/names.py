"""Which modules of a model a name in an adapter file stands for.

The names are taken from the model itself: the paths of its Linear and Conv2d modules, and what else they are called
(`alternatives.py`). A name that is not among them is not understood.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from collodion.worker.adapters.alternatives import alternatives
from collodion.worker.adapters.deltas import Ranges
from collodion.worker.adapters.grammar import Spelled, flat
from collodion.worker.adapters.sites import Site


class Target(NamedTuple):
    """A module, and which rows of a change of that name are its own; None: all, as they are."""

    site: Site
    rows: Ranges | None = None


class Nowhere(Enum):
    """Why a name stands for no module."""

    UNKNOWN = "the model has no module of that name"
    NO_COMPONENT = "it is for a part that models of this architecture do not have"
    NOT_LOADED = "its part of the model is not loaded"


_DENOISER = ("unet", "transformer")
_T5 = ("text_encoder_3", "text_encoder_2")
_COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "lora_te_": ("text_encoder",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te3_": _T5,
    "text_encoder.": ("text_encoder",),
    "text_encoder_2.": ("text_encoder_2",),
    "text_encoder_3.": ("text_encoder_3",),
    "text_encoders.clip_l.transformer.": ("text_encoder",),
    "text_encoders.clip_g.transformer.": ("text_encoder_2",),
    "text_encoders.t5xxl.transformer.": _T5,
}
"""Which components a prefix may mean, of which the first is meant that the architecture has; any other prefix means the denoiser."""

_OLD_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


class Names:
    """Looks up names. components: every one that the architecture has, by diffusers' name for it, with its sites; None: not loaded."""

    def __init__(self, components: Mapping[str, tuple[object, Mapping[str, Site]] | None]) -> None:
        self._known = {
            component: None if loaded is None else dict(_names(*loaded)) for component, loaded in components.items()
        }

    def find(self, spelled: Spelled) -> tuple[Target, ...] | Nowhere:
        """The modules that this key speaks of."""
        meant = _COMPONENTS.get(spelled.prefix, _DENOISER)
        component = next((component for component in meant if component in self._known), None)
        if component is None:
            return Nowhere.NO_COMPONENT
        known = self._known[component]
        if known is None:
            return Nowhere.NOT_LOADED
        return known.get(spelled.module, Nowhere.UNKNOWN)


def _names(model: object, sites: Mapping[str, Site]) -> Iterator[tuple[str, tuple[Target, ...]]]:
    for other in alternatives(model, list(sites)):  # type: ignore[arg-type]
        yield other.name, _targets([sites[path] for path in other.paths], other.swapped)
    for path, site in sites.items():
        for name in _spellings(path):
            yield name, (Target(site),)


def _targets(sites: list[Site], swapped: bool) -> tuple[Target, ...]:
    if swapped:
        (site,) = sites
        rows, half = site.shape[0], site.shape[0] // 2
        return (Target(site, ((half, rows), (0, half))),)
    if len(sites) == 1:
        return (Target(sites[0]),)
    ends = [sum(site.shape[0] for site in sites[: count + 1]) for count in range(len(sites))]
    return tuple(Target(site, ((end - site.shape[0], end),)) for site, end in zip(sites, ends, strict=True))


def _spellings(path: str) -> Iterator[str]:
    """A path as files spell it: transformers has dropped CLIP's `text_model`, diffusers the `.0` of `to_out` and put it back."""
    name = flat(path)
    names = [name]
    if name.endswith("_to_out_0"):
        names.append(name.removesuffix("_0"))
    if "self_attn_" in name:
        for now, before in _OLD_ATTENTION.items():
            if name.endswith("_" + now):
                names.append(name.removesuffix(now) + before)
    for each in names:
        yield each
        if each.startswith("text_model_"):
            yield each.removeprefix("text_model_")
        elif each.startswith("encoder_layers_"):
            yield "text_model_" + each
