"""Running, comparing and storing the golden entries."""

import json
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

Arrays = dict[str, np.ndarray]
SHOWN = 64
"""Values of an array that are stored for other machines."""
RTOL, ATOL = 1e-4, 1e-5


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread and deterministic algorithms of PyTorch within the context."""
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)


def run(
    *, only: str = "", say: Callable[[str], object] = lambda line: None
) -> tuple[Arrays, list[str]]:
    """Return the arrays of all entries by `entry/array`, and the names of failed entries."""
    from entries import ENTRIES
    from golden_api import quiet

    found: Arrays = {}
    failed = []
    for name, make in ENTRIES.items():
        if not re.search(only, name):
            continue
        began = time.perf_counter()
        try:
            with quiet():
                made = make()
        except Exception:
            failed.append(name)
            say(f"{name}: FAILED\n{traceback.format_exc()}")
            continue
        found |= {f"{name}/{key}": value for key, value in made.items()}
        say(f"{name}: {len(made)} arrays, {time.perf_counter() - began:.1f} s")
    return found, failed


def differences(
    one: Arrays,
    other: Arrays,
    *,
    tolerance: bool,
    names: tuple[str, str] = ("the first", "the second"),
) -> list[str]:
    """Return a line for each difference; NaN equals NaN."""
    lines = [f"{key}: only in {names[0]}" for key in one if key not in other]
    lines += [f"{key}: only in {names[1]}" for key in other if key not in one]
    for key in one:
        if key in other:
            line = _difference(one[key], other[key], tolerance=tolerance)
            lines += [] if line is None else [f"{key}: {line}"]
    return lines


def _difference(a: np.ndarray, b: np.ndarray, *, tolerance: bool) -> str | None:
    if a.shape != b.shape:
        return f"shapes {list(a.shape)} and {list(b.shape)}"
    if not tolerance and a.dtype != b.dtype:
        return f"types {a.dtype} and {b.dtype}"
    numbers = a.dtype.kind in "fiub" and b.dtype.kind in "fiub"
    if not numbers:
        return None if np.array_equal(a, b) else f"{a.dtype} that are not equal"
    if tolerance:
        same = np.allclose(a, b, rtol=RTOL, atol=ATOL, equal_nan=True)
    else:
        same = np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if same:
        return None
    apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    apart = np.where(np.isnan(a.astype(float)) & np.isnan(b.astype(float)), 0.0, apart)
    largest = np.nanmax(apart) if np.isfinite(apart).any() else np.nan
    count = int((apart != 0).sum())
    return f"largest difference {largest:.3e}, {count} of {a.size} values, shape {list(a.shape)}"


# ----------------------------------------------------------------------------- the stored arrays


def portable(key: str) -> bool:
    """Return True if results on other machines agree up to the tolerance.

    Weights after a training do not, because Adam makes full steps along gradients that consist of
    rounding errors; the text of a table is rounded again.
    """
    weights = key.startswith("trainings/") and ("/ema/" in key or "/raw/" in key)
    return not weights and not key.endswith("/table")


def reduced(arrays: Arrays) -> Arrays:
    """Return a few values, at a fixed stride, of each portable array."""
    found: Arrays = {}
    for key, values in arrays.items():
        if portable(key) and values.dtype.kind in "fiub":
            flat = values.reshape(-1).astype(np.float64)
            found[key] = flat[:: max(1, -(-len(flat) // SHOWN))]
    return found


def store(arrays: Arrays, file: Path) -> None:
    """Write reduced arrays as one array, with their names; as float32 if it is exact."""
    names = json.dumps([[key, len(values)] for key, values in arrays.items()])
    values = np.concatenate(list(arrays.values()))
    np.savez_compressed(
        file, names=np.frombuffer(names.encode(), np.uint8), values=values.astype(np.float32)
    )


def stored(file: Path) -> Arrays:
    """Return the arrays that `store` wrote."""
    with np.load(file) as data:
        names = json.loads(data["names"].tobytes())
        values = data["values"].astype(np.float64)
    ends = np.cumsum([size for _, size in names])
    parts = np.split(values, ends[:-1])
    return {key: part for (key, _), part in zip(names, parts, strict=True)}
