"""A Maker whose graphs are replayed on a CPU: what was captured reads and writes tensors of its own, as a CUDA graph does."""

import os
import shutil
from contextlib import nullcontext

import pytest

from collodion.worker.optimize.observer import Observer

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="needs a C++ compiler (CONTRIBUTING.md)",
)


class Replayed:
    static = True
    nbytes = 100

    def __init__(self, function, tensors):
        self._function = function
        self._own = {name: tensor.clone() for name, tensor in tensors.items()}
        self.replays = 0

    def __call__(self, function, tensors):
        for name, tensor in tensors.items():
            self._own[name].copy_(tensor)
        self.replays += 1
        return {name: result.clone() for name, result in self._function(self._own).items()}


class Replaying:
    """what it made is in `made`. impossible: the kind of error that capturing raises, if there is one."""

    what = "captured"

    def __init__(self, quick=True, impossible=None):
        self._quick = quick
        self.impossible = impossible
        self.made = []

    def key(self, signature):
        return signature

    def quick(self, signature):
        return self._quick

    def make(self, signature, function, tensors):
        if self.impossible:
            raise self.impossible("operation not permitted when stream is capturing")
        function(tensors)
        self.made.append(Replayed(function, tensors))
        return self.made[-1]

    def eagerly(self):
        return nullcontext()


class Notes(Observer):
    """An Observer that remembers."""

    def __init__(self):
        self.fallbacks, self.ready, self.recompilations, self.reuses = [], [], 0, 0

    def fell_back(self, reason):
        self.fallbacks.append(reason)

    def made_ready(self, what, seconds):
        self.ready.append(what)

    def recompiled(self):
        self.recompilations += 1

    def reused(self, evaluations):
        self.reuses += evaluations
