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
        outputs = self._merged(site, inputs)
        if self.product is None:
            return outputs
        if inputs.dtype is site.dtype and outputs.dtype is site.dtype:
            return self.product.add(site, inputs, outputs)
        nothing = torch.zeros_like(outputs, dtype=site.dtype)
        return outputs + self.product.add(site, inputs.to(site.dtype), nothing).to(outputs.dtype)

    def _merged(self, site: Site, inputs: torch.Tensor) -> torch.Tensor:
        if len(self.merges) == 1 and self.merges[0].places is None:
            return self.merges[0].outputs(site, inputs)
        outputs = site.unchanged(inputs)
        for merge in self.merges:
            merge.overwrite(site, inputs, outputs)
        return outputs
