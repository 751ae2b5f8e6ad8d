"""Regional compilation: torch.compile of the blocks that a denoiser repeats. What they share, their class, is compiled, not each of them.

`_repeated_blocks` are diffusers' own choice (`compile_repeated_blocks`): transformer blocks. What surrounds them stays eager, a UNet's
ResnetBlock2D too: they come in so many shapes that graphs go from two to nine for the embedded model, the compiler's time doubles, and
on a CPU nothing was gained that could be told from noise; and adapters of convolutions would then cost every row, whoever has them.

1. A block asks, at every call, whether its thread is inside of something compiled (`Compiled.__call__`); everywhere else, and that is
   every other model and thread, it runs eagerly. Nothing of torch that is global decides that: its stances (`set_stance`) are one
   for the process, and here one thread loads and compiles while another one steps.
2. Every set of shapes has compiled code of its own, shapes fixed (`dynamic=False`), in code objects of its own: Dynamo looks entries
   up one after the other and stops compiling at a number of them (`recompile_limit`), so those of other shapes and models must not be
   among them. They are freed with it.
3. Dynamo compiles in `make` and nowhere else. Later its guards are still asked, which tell apart blocks that only look alike, but a block
   they turn away runs eagerly and is counted. There is no way from a model's call to the compiler.
4. Everything is called in inference mode, compiling included; tensors that were made outside of it are copied.
5. What adapters do is compiled into the blocks (`Adapters.fix`): a call in which nobody has any, and one in which every row has so many
   ranks, whoever has them. See `collodion.worker.adapters.selection`.
"""

import contextlib
import functools
import os
import shutil
import threading
import types
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._C._dynamo.eval_frame import set_eval_frame

from collodion.wire.jobs import Optimization
from collodion.worker.exchange import behind, put_before
from collodion.worker.optimize.compile_cache import default_folder, keep_in
from collodion.worker.optimize.errors import Unsuitable
from collodion.worker.optimize.observer import Observer
from collodion.worker.optimize.ready import Function, Signature, Tensors

Backend: TypeAlias = str | Callable[..., Any]

INDUCTOR = "inductor"
_CALLS = 4
"""Of one block within one call of the model that may differ in their shapes. More are not compiled, but refused."""


class _Here(threading.local):
    """What the blocks of this thread run through at the moment; None: nothing, they are as diffusers wrote them."""

    code: "_Code | None" = None


_here = _Here()
_compiling = threading.Lock()  # Dynamo has one of its own, but traces cannot stand each other


class _Repeated:
    """What is put before a block's class."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See nn.Module."""
        code = _here.code
        if code is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        return code.call(self, args, kwargs)


def compile_blocks(denoiser: nn.Module, backend: Backend = INDUCTOR) -> Optimization:
    """From now on a `BlockCompiler` can compile its blocks. After adapters were attached and everything else that changes modules.

    backend: torch.compile's. Raises Unsuitable if there are no blocks, or nothing to compile them with.
    """
    blocks = repeated_blocks(denoiser)
    if not blocks:
        raise Unsuitable(f"compile=regional: {type(denoiser).__name__} has no blocks that it repeats")
    place = next(denoiser.parameters()).device
    if backend == INDUCTOR:
        _check_compiler(place)
    keep_in(default_folder(place))
    for block in blocks.values():
        put_before(_Repeated, block)
    counts = Counter(type(block).__name__ for block in blocks.values())
    return Optimization("compile", "regional", ", ".join(f"{count} {name}" for name, count in counts.items()))


def repeated_blocks(denoiser: nn.Module) -> dict[str, nn.Module]:
    """The blocks that are compiled, by path; none of them is inside of another. SD3's class names them for another purpose only."""
    names = getattr(denoiser, "_repeated_blocks", None) or getattr(denoiser, "_no_split_modules", None) or ()
    found: dict[str, nn.Module] = {}
    for path, module in denoiser.named_modules():
        inside = any(path.startswith(outer + ".") for outer in found)
        if type(module).__name__ in names and not inside:
            found[path] = module
    return found


class BlockCompiler:
    """Makes functions ready that call this denoiser: a `collodion.worker.optimize.ready.Maker`. Any thread.

    backend: torch.compile's.
    """

    what = "compiled"

    def __init__(self, denoiser: nn.Module, observer: Observer, backend: Backend = INDUCTOR) -> None:
        self._observer = observer
        self._backend = backend
        self._most = _CALLS * max(len(repeated_blocks(denoiser)), 1)

    def key(self, signature: Signature) -> Hashable:
        """See Maker."""
        return signature.compiled

    def quick(self, signature: Signature) -> bool:  # noqa: ARG002 - whatever it is
        """See Maker."""
        return False

    def make(self, signature: Signature, function: Function, tensors: Tensors) -> "Compiled":  # noqa: ARG002 - blocks know shapes
        """Compiles the blocks for these shapes, by running the function.

        Raises RuntimeError if they cannot be compiled, or would not be found again.
        """
        from torch._dynamo.exc import FailOnRecompileLimitHit  # takes a second

        _watch()
        code = _Code(self._backend, self._most, self._observer)
        with _compiling, torch.inference_mode(), _through(code):
            try:
                with _settings():
                    function(_inference(tensors))
            except FailOnRecompileLimitHit as error:
                raise RuntimeError(f"more than {self._most} kinds of calls of blocks") from error
            code.sealed = True
            function(_inference(tensors))
        if not code.functions:
            raise RuntimeError("the function calls no blocks that could be compiled")
        if code.missed:
            raise RuntimeError(f"what was compiled of {code.missed} does not hold for a second call")
        return Compiled(code)

    def eagerly(self) -> contextlib.AbstractContextManager[object]:
        """Around calls whose blocks are to run as diffusers wrote them, even inside of a call that is compiled."""
        return _through(None)


class Compiled:
    """Code that was compiled for some shapes: a `collodion.worker.optimize.ready.Prepared`. Device thread."""

    nbytes = 0  # of the device's memory, but for kernels
    static = False

    def __init__(self, code: "_Code") -> None:
        self._code = code

    @torch.inference_mode()
    def __call__(self, function: Function, tensors: Tensors) -> Tensors:
        """What the function makes of these. A block that the guards turn away runs eagerly, and the call is counted."""
        self._code.missed = ""
        with _through(self._code):
            results = function(_inference(tensors))
        if self._code.missed:
            self._code.observer.fell_back("recompile")
        return results

    @property
    def graphs(self) -> int:
        """How many different ones were compiled for all its blocks."""
        return sum(function.graphs for function in self._code.functions.values())


class _Code:
    """Compiled code for one set of shapes, by what blocks have in common. missed: the class of a block that has none."""

    def __init__(self, backend: Backend, most: int, observer: Observer) -> None:
        self.functions: dict[type[Any], _Function] = {}
        self.observer = observer
        self.sealed = False
        self.missed = ""
        self._backend = backend
        self._most = most

    def call(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind: Any = type(block)
        function = self.functions.get(kind)
        if function is None:
            if self.sealed:
                self.missed = kind.__name__
                return behind(kind).forward(block, *args, **kwargs)
            function = self.functions[kind] = _Function(kind, self._backend, self._most)
        if not self.sealed:
            return function.compiled(block, *args, **kwargs)
        # What `torch._dynamo.run` does: look compiled code up, for this thread, and never compile. It is not used itself because it
        # raises an error if any thread of the process is tracing at the moment.
        before = set_eval_frame(False)
        try:
            return function.plain(block, *args, **kwargs)
        finally:
            set_eval_frame(before)


class _Function:
    """A class's `forward`, in a code object and with globals that nothing else has: Dynamo keeps what it makes in these."""

    def __init__(self, kind: type[Any], backend: Backend, most: int) -> None:
        forward = behind(kind).forward

        def call(block: Any, /, *args: Any, **kwargs: Any) -> Any:
            # Not in compiled code, where Dynamo knows the answer: only if its guards do not hold.
            if not torch.compiler.is_dynamo_compiling():
                _miss(kind.__name__)
            return forward(block, *args, **kwargs)

        own = call.__code__.replace(co_name=f"call_{kind.__name__}")
        self.plain = types.FunctionType(own, dict(call.__globals__), own.co_name, None, call.__closure__)
        # Any: its overloads do not know `recompile_limit`.
        compiler: Any = torch.compile
        self.compiled = compiler(self.plain, backend=backend, fullgraph=True, dynamic=False, recompile_limit=most)

    @property
    def graphs(self) -> int:
        from torch._dynamo.eval_frame import _debug_get_cache_entry_list

        return len(_debug_get_cache_entry_list(self.plain.__code__))


def _miss(name: str) -> None:
    if _here.code is not None:
        _here.code.missed = name


def _inference(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The same, all of them made in inference mode: guards tell them from others, and what is stepped was made in it."""
    return {name: tensor if tensor.is_inference() else tensor.clone() for name, tensor in tensors.items()}


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Torch's, while something is compiled: what pools of adapters need, whose number of pages differs (`pool.stand_in`)."""
    from torch._dynamo import config
    from torch.fx.experimental import _config

    shapes: Any = _config
    # Pools are found below modules, and would have static shapes for that; and pools of equally many pages would have to stay equal.
    with config.patch(force_nn_module_property_static_shapes=False), shapes.patch(use_duck_shape=False):
        yield


@contextlib.contextmanager
def _through(code: _Code | None) -> Iterator[None]:
    before = _here.code
    _here.code = code
    try:
        yield
    finally:
        _here.code = before


def _check_compiler(place: torch.device) -> None:
    if place.type != "cuda":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as missing:
            raise Unsuitable(
                "compile=regional needs a C++ compiler on a CPU: g++, or the one that CXX names"
            ) from missing
    elif find_spec("triton") is None:
        raise Unsuitable("compile=regional needs triton on a GPU, and it is not installed")
    elif not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        raise Unsuitable(
            "compile=regional needs a C compiler on a GPU, too: triton starts its kernels through what that makes"
        )


@functools.cache
def _watch() -> None:
    """Should anything be compiled inside of a call of what was made ready, its observer is told."""
    from torch._dynamo.callback import CallbackArgs, on_compile_start

    def started(_: CallbackArgs) -> None:
        if _here.code is not None and _here.code.sealed:
            _here.code.observer.recompiled()

    on_compile_start(started)
