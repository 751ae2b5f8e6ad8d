"""Takes from this process what it can do without, as far as a plain user may: no code that it is fed shall come to anything.

What is taken, on Linux: privileges by execution (prctl), the network (a namespace of its own, where the kernel lets users have one), every
file but those that are open (Landlock, kernel 5.13 and later), memory, time, the size of files, new processes (resource limits; the
last not from root). What is not: system calls are not filtered. Elsewhere than on Linux only the resource limits hold.
"""

import ctypes
import resource
import sys

_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the same on every architecture
_LANDLOCK_CREATE_RULESET_VERSION = 1
# What each version of Landlock can forbid (linux/landlock.h).
_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP, _TCP_SINCE = 0b11, 4
_SCOPES, _SCOPES_SINCE = 0b11, 6  # abstract sockets and signals to others


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


def leave_network() -> bool:
    """To be called before there are threads. Whether there is no network any more."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) == 0)


def leave_files() -> bool:
    """No file can be opened, made or executed by this thread from now on. Whether that is so."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    rules = _Ruleset(
        max((since, forbidden) for since, forbidden in _FILES.items() if since <= version)[1],
        _TCP if version >= _TCP_SINCE else 0,
        _SCOPES if version >= _SCOPES_SINCE else 0,
    )
    # An older kernel refuses a structure that has more than it knows.
    known = 24 if version >= _SCOPES_SINCE else 16 if version >= _TCP_SINCE else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(rules), known, 0)
    return bool(ruleset >= 0 and libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)


def limit(memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """No more address space than that beside what is used now, no more CPU time and larger files at all, no new process."""
    wanted = {
        resource.RLIMIT_AS: _address_space() + memory_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for which, most in wanted.items():
        hard = resource.getrlimit(which)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (least, least))


def _address_space() -> int:
    """Bytes of address space that are used, most of which is no memory."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123  # a Path would cost an import more before the limits
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 16 << 30
