"""Packages that diffusers and transformers import as soon as they are installed, though nobody asked for what they do.

torchao takes a third of a second of every worker's start and says on standard error what it could not load. So those libraries are told
that it is not there, which they ask once, and it is imported by the first model that is to be quantised.
"""

import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType

_HIDDEN = ("torchao",)
_TALKATIVE = (
    "torchao",
    "torch.utils._pytree",
)  # kernels for other hardware that were not loaded; enums that need no registering
_FOREIGN = (ImportError, OSError, RuntimeError, AttributeError)
_importing = threading.Lock()


def hide() -> None:
    """To be called before diffusers or transformers are imported; changes nothing for a package that has been imported already."""
    for name in _HIDDEN:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] # how Python notes that there is no such module


def installed(name: str) -> bool:
    """Whether there is such a package, hidden or not."""
    return sys.modules.get(name) is not None or PathFinder.find_spec(name) is not None


def import_hidden(name: str) -> ModuleType:
    """A module of a package that may be hidden, without what it says meanwhile. Raises ImportError if it cannot be imported."""
    package = name.partition(".")[0]
    with _importing, _quiet():
        if sys.modules.get(package, ...) is None:
            del sys.modules[package]
        try:
            return importlib.import_module(name)
        except _FOREIGN as error:
            raise ImportError(f"{package} cannot be imported: {type(error).__name__}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
