"""Runs a command that the kernel kills when its parent dies: `python die_with_parent.py PARENT_PID COMMAND…`.

Why so: a supervisor that is killed cannot stop its children, a pipe to watch would have to be built into each of
them, and code between fork and exec (`preexec_fn`) may deadlock in a process with threads, as one with a gRPC channel
is. The wish (prctl(2), PR_SET_PDEATHSIG) outlives execve, so this process makes it for itself and becomes the
command: same process id, nothing in between. SIGKILL, because a child that waits for its clients would else outlive
its supervisor and hold the sockets of the next one; our processes are made to be killed. The kernel's parent is the
THREAD that started the child: start it from one that lives as long.

Elsewhere than on Linux there is no such wish, and the command just runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Becomes `command`, tied to `parent`."""
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        if os.getppid() != parent:  # it died before the wish was made
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # the supervisor's own command line


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
