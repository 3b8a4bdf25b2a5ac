"""Environment variables of OpenMP: the number of threads and the way they wait.

PyTorch's OpenMP library reads these variables once, when PyTorch is imported. Therefore this module
imports only `os` and `sys`, and its functions are called before any other import.
"""

import os
import sys
from collections.abc import Iterator

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables that control how a thread waits for other threads."""

COUNT = "OMP_NUM_THREADS"
"""Variable that sets the number of threads."""


def let_threads_sleep() -> None:
    """Make waiting OpenMP threads sleep soon instead of keeping their cores busy.

    By default a thread of GNU's OpenMP checks 300,000 times for the other threads before it sleeps.
    Small networks wait hundreds of times per update. If another process occupies the core of one
    thread, the remaining threads spend nearly all of their time on these checks. The function has
    no effect if PyTorch is already imported or if the user has set one of `WAITING`.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"  # GNU's library, in PyTorch's wheels for Linux
    os.environ["KMP_BLOCKTIME"] = "0"  # LLVM's and Intel's, on macOS and from conda


def fit_threads_to_cores(root: str = "/") -> None:
    """Set OMP_NUM_THREADS if this process may use fewer cores than the machine has.

    OpenMP counts cores and ignores the CPU quota of a container. The function has no effect if
    PyTorch is already imported or if the user has set the variable.

    Args:
        root: folder that contains `proc` and `sys`.
    """
    if "torch" in sys.modules or COUNT in os.environ:
        return
    allowed = allowed_cores(root)
    if allowed < (os.cpu_count() or 1):
        os.environ[COUNT] = str(allowed)


def allowed_cores(root: str = "/") -> int:
    """Return the number of cores allowed by the affinity and the quota (rounded up)."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    # A quota is CPU time per period, both in microseconds.
    quotas = [-(-used // period) for used, period in _quotas(root) if used > 0 and period > 0]
    return max(1, min([cores, *quotas]))


def _quotas(root: str) -> Iterator[tuple[int, int]]:
    """Yield quota and period of each control group of this process, including parent groups.

    Missing files are skipped: inside a container the group may have a path of the host that does
    not exist there.
    """
    groups = os.path.join(root, "sys", "fs", "cgroup")
    for line in _text(os.path.join(root, "proc", "self", "cgroup")).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            below = parts[:depth]
            if not controllers:  # version 2
                words = _text(os.path.join(groups, *below, "cpu.max")).split()
            elif "cpu" in controllers.split(","):  # version 1
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                words = [_text(os.path.join(groups, "cpu", *below, name)) for name in names]
            else:
                break
            if len(words) == 2 and all(word.strip().isdecimal() for word in words):
                yield int(words[0]), int(words[1])


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""
