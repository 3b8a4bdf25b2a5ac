"""What a figure of speed, and in its last digits a score, depends on."""

import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from pgdiff.threads import COUNT, WAITING
from pgdiff.version import __version__

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco")
_VARIABLES = (COUNT, "MKL_NUM_THREADS", *WAITING)


def machine() -> dict[str, Any]:
    """Return processor, cores, threads, load, accelerator and versions, ready for JSON.

    The load is that of the last minute, this process included; the variables are those of OpenMP
    that are set.
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": {"pgdiff": __version__} | {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()
