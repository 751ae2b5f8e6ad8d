"""CUDA graphs: what is launched once for each kernel is launched once for a whole call.

1. A graph reads and writes the addresses that it was captured with: it has tensors of its own, into which everything that differs is
   copied before it is replayed, and its results are copied out of them.
2. All graphs of a model share one pool of memory, since only one runs at a time. The greatest is captured first.
3. Capturing minds only what its own thread does (`thread_local`): another one may step a model meanwhile.

Written without a GPU at hand; tests/gpu runs it where there is one.
"""

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from collodion.worker.optimize.ready import STEP, Function, Maker, Prepared, Signature, Tensors

_WARM_UPS = 3  # calls before: libraries choose their kernels and take their memory in the first ones


class CudaGraphs:
    """A Maker. compiler: what is captured is compiled first, if there is one; compiled code is captured again and again."""

    what = "captured"

    def __init__(self, place: torch.device, compiler: Maker | None = None) -> None:
        self._place = place
        self._compiler = compiler
        self._compiled: dict[Hashable, Prepared] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # One for all: libraries keep workspaces for each stream that they have seen.
        self._stream: torch.cuda.Stream = torch.cuda.Stream(place)  # type: ignore[no-untyped-call]

    def key(self, signature: Signature) -> Hashable:
        """See Maker."""
        return signature

    def quick(self, signature: Signature) -> bool:
        """See Maker: capturing is, compiling is not."""
        return not self._compiles(signature) or signature.compiled in self._compiled

    def make(self, signature: Signature, function: Function, tensors: Tensors) -> "Captured":
        """See Maker."""
        before = torch.cuda.memory_reserved(self._place)
        called = self._called(signature, function, tensors)
        own = {name: tensor.clone() for name, tensor in tensors.items()}
        self._stream.wait_stream(torch.cuda.current_stream(self._place))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                called(own)
        torch.cuda.current_stream(self._place).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            results = called(own)
        return Captured(graph, own, dict(results), max(0, torch.cuda.memory_reserved(self._place) - before))

    def eagerly(self) -> AbstractContextManager[object]:
        """See Maker."""
        return nullcontext() if self._compiler is None else self._compiler.eagerly()

    def _compiles(self, signature: Signature) -> bool:
        return self._compiler is not None and signature.name == STEP

    def _called(self, signature: Signature, function: Function, tensors: Tensors) -> Function:
        if self._compiler is None or not self._compiles(signature):
            return function
        compiled = self._compiled.get(signature.compiled)
        if compiled is None:
            compiled = self._compiled[signature.compiled] = self._compiler.make(signature, function, tensors)
        return partial(compiled, function)


class Captured:
    """A Prepared. own: the tensors that the graph reads. results: those that it writes."""

    static = True

    def __init__(self, graph: torch.cuda.CUDAGraph, own: Tensors, results: Tensors, nbytes: int) -> None:
        self.nbytes = nbytes
        self._graph = graph
        self._own = own
        self._results = results

    def __call__(self, function: Function, tensors: Tensors) -> Tensors:  # noqa: ARG002 - it does what was captured
        """See Prepared."""
        for name, tensor in tensors.items():
            self._own[name].copy_(tensor, non_blocking=True)
        self._graph.replay()
        return {name: result.clone() for name, result in self._results.items()}
