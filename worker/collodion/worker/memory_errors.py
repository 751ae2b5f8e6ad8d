"""How torch's lack of memory is recognised."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turns every way in which torch says that memory is short into MemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # the CPU allocator has no type of its own for it
            raise MemoryError(str(error)) from error
        raise
