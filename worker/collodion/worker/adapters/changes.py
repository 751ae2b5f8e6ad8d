"""What is applied to one module for one call of the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from collodion.worker.adapters.merging import Merge
from collodion.worker.adapters.products import Product
from collodion.worker.adapters.sites import Site


@dataclass(frozen=True, eq=False)
class Change:
    """Everything that is applied to a site for one call."""

    product: Product | None
    merges: Sequence[Merge] = ()

    def __call__(self, site: Site, inputs: torch.Tensor) -> torch.Tensor:
        """See Applied."""
        if self._replaces:
            return self._added(site, inputs, self.merges[0].outputs(site, inputs))
        return self.onto(site, inputs, site.unchanged(inputs))

    def onto(self, site: Site, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """See Applied."""
        if self._replaces:
            outputs = self.merges[0].outputs(site, inputs)
        else:
            for merge in self.merges:
                merge.overwrite(site, inputs, outputs)
        return self._added(site, inputs, outputs)

    @property
    def _replaces(self) -> bool:
        """Whether all rows have the same changed matrix, so that the module's own outputs are not looked at."""
        return len(self.merges) == 1 and self.merges[0].places is None

    def _added(self, site: Site, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        if self.product is None:
            return outputs
        if inputs.dtype is site.dtype and outputs.dtype is site.dtype:
            return self.product.add(site, inputs, outputs)
        nothing = torch.zeros_like(outputs, dtype=site.dtype)
        return outputs + self.product.add(site, inputs.to(site.dtype), nothing).to(outputs.dtype)
