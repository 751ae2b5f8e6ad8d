"""Where compiled kernels are kept from one start of a worker to the next.

1. What is kept is code: shared libraries, the sources they were built from, cubins. Whoever may write to the directory may run code in
   the worker, so it is this user's alone (0700), and so is the way to it; anything else is refused. Inductor's own default, a name that
   anybody can guess in /tmp, is never used.
2. Nothing is pickled. Inductor keeps whole compiled graphs too (its FX graph cache and AOTAutograd's; `torch.compiler.save_cache_artifacts`
   packs the same files), and those are pickles: they stay off. So a warm start traces and lowers every block again, and loads the kernels.
   Its pool of compiling processes, which are sent pickles through a pipe, stays off as well: kernels are compiled one after the other.
3. All of this is the process's, not a model's: it is set once, before anything is compiled.
"""

import os
import re
import stat
from pathlib import Path

import torch

from collodion.worker.device_kind import device_kind
from collodion.worker.optimize.errors import Unsuitable


def default_folder(device: torch.device) -> Path:
    """`$XDG_CACHE_HOME/collodion/compiled/VERSION-DEVICE`, or the same below ~/.cache: what another torch or device made is of no use."""
    cache = os.environ.get("XDG_CACHE_HOME")
    place = str(device) if device.type == "cuda" else device.type
    kind = re.sub(r"[^a-z0-9]+", "-", device_kind(place).lower()).strip("-")
    return (Path(cache) if cache else Path.home() / ".cache") / "collodion/compiled" / f"{torch.__version__}-{kind}"


def keep_in(folder: Path) -> Path:
    """From now on this process keeps its kernels there, and finds those that are there. Returns the directory's true path.

    Raises Unsuitable if somebody else might write to it.
    """
    folder = _private(folder)
    import torch._functorch.config as autograd
    import torch._inductor.config as inductor

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    inductor.compile_threads = 1
    inductor.fx_graph_cache = False
    inductor.fx_graph_remote_cache = False
    autograd.enable_autograd_cache = False
    autograd.enable_remote_autograd_cache = False
    return folder


def _private(folder: Path) -> Path:
    """The directory, made if need be. What is in one that was open to others until now may be theirs: it is not made private by us."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        own = folder.stat()
        if own.st_uid != os.getuid() or stat.S_IMODE(own.st_mode) & 0o077:
            raise Unsuitable(
                f"compiled code is not kept in {folder}: it has to be this user's, and nobody else's to enter (0700)"
            )
        exposed = next((parent for parent in folder.parents if _may_be_replaced(parent.stat())), None)
    except OSError as error:
        raise Unsuitable(f"compiled code cannot be kept in {folder}: {error.strerror}") from error
    if exposed is not None:
        raise Unsuitable(f"compiled code is not kept in {folder}: anybody may write to {exposed}")
    return folder


def _may_be_replaced(parent: os.stat_result) -> bool:
    """Whether somebody else may put another directory into the place of one below this."""
    anybody = parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX
    return bool(anybody) or parent.st_uid not in (os.getuid(), 0)
