"""Memory and speed of large recordings: opening, segments, returns, normalisers. Printed.

python tests/benchmarks/data.py [--steps 1000000 10000000] [--features 17] [--folder FOLDER]

Memory is anonymous memory (`RssAnon` of /proc/self/status), because the system can drop pages of a
mapped file. Each size is measured in a separate process; a thread samples the peak of every phase.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HORIZON, STRIDE, BATCH = 12, 10, 128
EPISODE = 1000
_BLOCK = 100_000


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--features", type=int, default=17, help="of an observation")
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument(
        "--folder", type=Path, help="for the temporary file, by default the system's"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        measure(arguments.measure, batches=arguments.batches)
        return
    for steps in arguments.steps:
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            path = write(folder / "data.hdf5", steps=steps, features=arguments.features)
            size = path.stat().st_size / 1e6
            print(f"\n{steps:,} steps of {arguments.features} features, {size:,.0f} MB", flush=True)
            words = [sys.executable, __file__, "--measure", path, "--batches", arguments.batches]
            subprocess.run([str(word) for word in words], check=True)
        finally:
            shutil.rmtree(folder)


def write(path: Path, *, steps: int, features: int) -> Path:
    """Write a recording of random walks block by block."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, tail in (("observations", (features,)), ("actions", (6,)), ("rewards", ())):
            values = file.create_dataset(name, (steps, *tail), np.float32)
            for first in range(0, steps, _BLOCK):
                count = min(_BLOCK, steps - first)
                values[first : first + count] = rng.normal(size=(count, *tail))
        file.create_dataset("terminals", data=np.zeros(steps, np.bool_))
        file.create_dataset("timeouts", data=np.arange(1, steps + 1) % EPISODE == 0)
    return path


def anonymous() -> float:
    """Return the anonymous memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    raise SystemExit("This system has no RssAnon in /proc/self/status.")


@contextmanager
def phase(name: str, base: float) -> Iterator[None]:
    """Print seconds, peak and kept memory above `base` of a phase."""
    peak, done = [anonymous()], threading.Event()

    def sample() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    thread = threading.Thread(target=sample)
    thread.start()
    began = time.perf_counter()
    try:
        yield
    finally:
        done.set()
        thread.join()
    spent = time.perf_counter() - began
    kept = anonymous()
    top = max(peak[0], kept)
    print(
        f"{name:32}{spent:9.2f} s{top - base:9.0f} MB at most{kept - base:9.0f} MB kept", flush=True
    )


def measure(path: Path, *, batches: int) -> None:
    """Measure all phases in this process."""
    from pgdiff.critics import TransitionValue
    from pgdiff.data import (
        ConditionedDataset,
        ReturnCondition,
        SegmentDataset,
        discounted_returns,
        fit_normalizer,
        load_episodes,
    )
    from pgdiff.data.quality import quality
    from pgdiff.dynamics import InverseDynamics

    base = anonymous()
    print(f"{'(imported)':32}{'':11}{base:9.0f} MB of its own")

    def step(name: str, work: Callable[[], Any]) -> Any:
        with phase(name, base):
            return work()

    step("open, first time", lambda: load_episodes(path))
    episodes = step("open again", lambda: load_episodes(path))
    dataset = step("segments", lambda: SegmentDataset(episodes, HORIZON, STRIDE))
    rng = np.random.default_rng(0)

    def gather() -> None:
        for _ in range(batches):
            dataset.batch(rng.integers(len(dataset), size=BATCH))

    for name in ("batches, cold", "batches, warm"):
        began = time.perf_counter()
        step(name, gather)
        speed = batches * BATCH / (time.perf_counter() - began)
        print(f"{'':32}{speed:11,.0f} segments/s of {HORIZON} tokens at stride {STRIDE}")
    step("discounted returns", lambda: discounted_returns(episodes, 0.99))
    rewarded = ("observations", "rewards")
    step(
        "segments with rewards", lambda: SegmentDataset(episodes, HORIZON, STRIDE, fields=rewarded)
    )
    for kind in ("limits", "standard"):
        step(f"normaliser, {kind}", lambda kind=kind: fit_normalizer(kind, [episodes.observations]))
    step("split", lambda: episodes.split(0.1, seed=0))
    condition = step("condition, fitted", lambda: ReturnCondition().fit(episodes))
    step("conditioned segments", lambda: ConditionedDataset(dataset, [condition]))
    inverse = step(
        "inverse dynamics", lambda: InverseDynamics.from_episodes(episodes, stride=STRIDE)
    )
    step("its pairs of rows", lambda: inverse.dataset(episodes))
    value = step("value", lambda: TransitionValue.from_episodes(episodes, stride=STRIDE))
    step("its transitions", lambda: value.dataset(episodes))
    step("join_continuous", lambda: load_episodes(path, join_continuous=True))
    step("quality report", lambda: quality(episodes))


if __name__ == "__main__":
    main()
