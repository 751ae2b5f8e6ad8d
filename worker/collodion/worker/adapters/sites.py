"""The modules of a model that adapters can change, and how they come to ask for the change.

Only the class of a site's module is exchanged (`collodion.worker.exchange`), for one whose `forward` asks its site whether anything is
applied. With nothing applied that is one look at an attribute.

1. `Site.applied` is set and reset on the device thread only, around a call of the model (`selection.py`).
2. Sites that share a `Segment` have their pages in common: an adapter that changes one of them has a place in all of them that are open.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch
from torch import nn

from collodion.worker.adapters.deltas import Shape
from collodion.worker.adapters.pool import Pool
from collodion.worker.exchange import behind, put_before

_ATTENTION = re.compile(r"(?:^|\.)(?:attn\d*|self_attn|attention|SelfAttention)\.")


class Applied(Protocol):
    """What is applied to a site for one call of the model."""

    def __call__(self, site: "Site", inputs: torch.Tensor) -> torch.Tensor:
        """The module's output, changed."""

    def onto(self, site: "Site", inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """What the module made of the inputs, changed; in place if that is possible."""


class Segment(StrEnum):
    """Which sites of a component share their pages: adapters tend to change all of a kind or none."""

    ATTENTION = "attention"
    LINEAR = "linear"
    POINTWISE = "pointwise"
    CONVOLUTION = "convolution"


@dataclass(eq=False)
class Site:
    """A module that adapters can change. shape: of its weights. pool: the low-rank products that are on the device."""

    component: str
    path: str
    module: nn.Module
    segment: Segment
    shape: Shape
    dtype: torch.dtype
    place: torch.device
    pool: Pool = field(init=False)
    applied: Applied | None = None

    def __post_init__(self) -> None:
        self.pool = Pool(math.prod(self.shape[1:]), self.shape[0], self.dtype, self.place)

    @property
    def spatial(self) -> bool:
        """Whether it is a convolution."""
        return len(self.shape) == 4

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.component}.{self.path}"

    def by_row(self, tensor: torch.Tensor, rows: int) -> torch.Tensor:
        """(rows, multiple, …), a view: a module that is called with several entries for each row has them one behind the other.

        Raises ValueError if it is called with anything else.
        """
        multiple, rest = divmod(len(tensor), rows)
        if rest:
            raise ValueError(f"{self.name} is called with {len(tensor)} rows in a batch of {rows}")
        return tensor.view(rows, multiple, *tensor.shape[1:])

    def unchanged(self, inputs: torch.Tensor) -> torch.Tensor:
        """The module's own output."""
        outputs: torch.Tensor = behind(type(self.module)).forward(self.module, inputs)
        return outputs


class _Asking:
    """What is put before a module's class."""

    adapter_site: Site

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """See nn.Module."""
        applied = self.adapter_site.applied
        if applied is None:
            return super().forward(inputs)  # type: ignore[misc, no-any-return]
        return applied(self.adapter_site, inputs)


def sites_of(component: str, model: nn.Module, exclude: Collection[str] = ()) -> dict[str, Site]:
    """All modules of the model that adapters can change, by path. exclude: beginnings of paths that are left out."""
    inside = [path + "." for path, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    barred = (*exclude, *inside)  # torch's own attention reads the weights of its projections past their `forward`
    return {
        path: Site(component, path, module, _segment(path, module), tuple(weight.shape), weight.dtype, weight.device)
        for path, module in model.named_modules()
        if (weight := _weight(module)) is not None and not path.startswith(barred)
    }


def attach(sites: Mapping[str, Site]) -> None:
    """From now on these modules ask their sites. May be done again."""
    for site in sites.values():
        put_before(_Asking, site.module)
        vars(site.module)["adapter_site"] = site


def own_class(module: nn.Module) -> type[nn.Module]:
    """The module's class, without what `attach` has put before it."""
    return behind(type(module)) if isinstance(module, _Asking) else type(module)


def changed(module: nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """What is applied to the module, on outputs that were computed past its `forward`; which may be overwritten."""
    if not isinstance(module, _Asking):
        return outputs
    applied = module.adapter_site.applied
    return outputs if applied is None else applied.onto(module.adapter_site, inputs, outputs)


def detach(sites: Mapping[str, Site]) -> None:
    """They are what they were before `attach`."""
    for site in sites.values():
        if vars(site.module).get("adapter_site") is site:
            del vars(site.module)["adapter_site"]
            site.module.__class__ = own_class(site.module)


def _weight(module: nn.Module) -> torch.Tensor | None:
    """The weights of a module that adapters can change; None of any other."""
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return None
    if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros"):
        return None
    return module.weight if module.weight.is_floating_point() else None


def _segment(path: str, module: nn.Module) -> Segment:
    if isinstance(module, nn.Conv2d):
        return Segment.POINTWISE if math.prod(module.kernel_size) == 1 else Segment.CONVOLUTION
    return Segment.ATTENTION if _ATTENTION.search(path) else Segment.LINEAR
