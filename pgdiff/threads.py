"""How threads wait for each other, and how many there are: what OpenMP reads from the environment.

PyTorch's OpenMP library reads these variables once, when PyTorch is imported. So this module
imports nothing beyond `os` and `sys`, and its functions are called before anything else is.
"""

import os
import sys
from collections.abc import Iterator

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables that control how a thread waits for the others."""

COUNT = "OMP_NUM_THREADS"
"""The variable that sets the number of threads."""


def let_threads_sleep() -> None:
    """Let a thread that waits for others go to sleep soon instead of keeping its core busy.

    By default a thread of GNU's OpenMP checks 300,000 times whether the others have arrived before
    it sleeps. Small networks wait hundreds of times an update, and beside another busy process,
    which takes the core of one thread, the others spend nearly all of their time checking. Nothing
    changes where PyTorch is already imported, or where the user has set one of `WAITING`.
    """
    if "torch" in sys.modules or any(name in os.environ for name in WAITING):
        return
    os.environ["GOMP_SPINCOUNT"] = "1000"  # GNU's library, in PyTorch's wheels for Linux
    os.environ["KMP_BLOCKTIME"] = "0"  # LLVM's and Intel's, on macOS and from conda


def fit_threads_to_cores(root: str = "/") -> None:
    """Set OMP_NUM_THREADS where this process may use fewer cores than the machine has.

    OpenMP counts cores and knows nothing of the quota of a container. Nothing changes where PyTorch
    is already imported, or where the user has set the variable.

    Args:
        root: the folder below which `proc` and `sys` are looked up.
    """
    if "torch" in sys.modules or COUNT in os.environ:
        return
    allowed = allowed_cores(root)
    if allowed < (os.cpu_count() or 1):
        os.environ[COUNT] = str(allowed)


def allowed_cores(root: str = "/") -> int:
    """Return how many cores this process may use, by its affinity and its quota, rounded up."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    # Microseconds of use, and of the period in which they may be used.
    quotas = [-(-used // period) for used, period in _quotas(root) if used > 0 and period > 0]
    return max(1, min([cores, *quotas]))


def _quotas(root: str) -> Iterator[tuple[int, int]]:
    """Yield the quota and period of each control group that this process belongs to.

    Those above its own count as well. A container may see the path of its group on the host,
    whose files it does not see: those that are missing are passed over.
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
