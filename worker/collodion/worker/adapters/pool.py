"""Low-rank products of one module on the device, in pages of a fixed size, gathered by number.

A page holds PAGE ranks: PAGE rows of `down` and PAGE columns of `up`. An adapter of rank r takes ⌈r / PAGE⌉ of them, wherever they are
free, filled up with zeros; page 0 holds zeros and belongs to nobody. So the products of several adapters of any ranks are gathered
by one list of page numbers a row, and a row with fewer ranks than another has zeros behind its own.

Compiled code reads the pools of all its modules, whether an adapter changes them or not, and must not be told by their shapes who is
there. So a closed pool may stand in with zeros, and how many pages there are is dynamic for the compiler: two at least, because
it makes exceptions of none and of one. Zeros are as many as the widest module needs; all that stand in read the same memory.
"""

import torch

PAGE = 4
"""Ranks in a page. The smallest rank that people train; a larger one would waste memory, a smaller one makes gathering slower."""


class Pool:
    """The pages of one module: `down` (pages, PAGE, in), `up` (pages, PAGE, out). Closed (without memory of its own) until it is resized.

    `in` counts what one output reads: a convolution's channels times its height and width.
    """

    def __init__(self, width_in: int, width_out: int, dtype: torch.dtype, place: torch.device) -> None:
        self.widths = (width_in, width_out)
        self.pages = 0
        """How many it has room for; 0 if it is closed."""
        self.stands_in = False
        self.page_bytes = PAGE * (width_in + width_out) * dtype.itemsize
        self.down = torch.empty(0, PAGE, width_in, dtype=dtype, device=place)
        self.up = torch.empty(0, PAGE, width_out, dtype=dtype, device=place)

    def resize(self, pages: int, kept: torch.Tensor | None = None) -> None:
        """Room for so many. kept: int64, the old pages that become the first of the new ones; None: as many as there are.

        Raises whatever torch raises if memory is short, and then nothing has changed.
        """
        count = min(self.pages, pages) if kept is None else len(kept)
        old = [side[:count] if kept is None else side.index_select(0, kept) for side in (self.down, self.up)]
        new = [side.new_zeros(pages, *side.shape[1:]) for side in (self.down, self.up)]
        for into, source in zip(new, old, strict=True):
            into[:count] = source
        self.down, self.up = new
        self.pages = pages
        if self.stands_in:
            self._vary()

    def close(self) -> None:
        """Gives back its memory."""
        self.down, self.up = (side.new_empty(0, *side.shape[1:]) for side in (self.down, self.up))
        self.pages = 0

    def stand_in(self, zeros: torch.Tensor, pages: int) -> None:
        """From now on compiled code may read it. A closed one reads zeros meanwhile, as if it had so many pages.

        zeros: (pages · PAGE · the greater of its widths,) at least; nothing may ever be written into them.
        """
        self.stands_in = True
        if not self.pages:
            self.down, self.up = (_reading(zeros, pages, width) for width in self.widths)
        self._vary()

    def _vary(self) -> None:
        from torch._dynamo import mark_dynamic  # takes a second

        mark_dynamic(self.down, 0)
        mark_dynamic(self.up, 0)

    def write(self, pages: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> None:
        """Fills these pages (int64, on the device); zeros go into those for which there are no ranks.

        down: (ranks, in), up: (ranks, out), ranks a multiple of PAGE, on the device or not.
        """
        count = len(down) // PAGE
        for into, source in ((self.down, down), (self.up, up)):
            if count:
                whole = source.view(count, PAGE, -1).to(into.device, non_blocking=True)
                into.index_copy_(0, pages[:count], whole)
            if count < len(pages):
                into.index_fill_(0, pages[count:], 0)

    def clear(self, pages: torch.Tensor) -> None:
        """Fills these pages (int64, on the device) with zeros."""
        for into in (self.down, self.up):
            into.index_fill_(0, pages, 0)


def _reading(zeros: torch.Tensor, pages: int, width: int) -> torch.Tensor:
    """The first of them, as pages. No view: the compiler would ask what it is a view of."""
    size, stride = (pages, PAGE, width), (PAGE * width, width, 1)
    return zeros.new_empty(0).set_(zeros.untyped_storage(), 0, size, stride)
