"""Recording and loading."""

from pathlib import Path

import gymnasium as gym
import numpy as np
from timing import Row, seconds, timings

from pgdiff.data import Episodes, SegmentDataset
from pgdiff.workflows.recording.collect import collect

BATCH = 128
LAYOUTS = ((12, 10), (32, 15))
TASK = "maze2d-umaze-v1"


def recording(path: Path, *, steps: int) -> list[Row]:
    """Record a task's expert on one core, file and checks included."""
    env = gym.make(f"pgdiff_envs:{TASK}")
    try:
        spent = seconds(lambda: collect(env, path, steps=steps, seed=0, progress=False))
    finally:
        env.close()
    return [Row("recording", f"{TASK}, {steps:,} steps, one core", steps / spent, "steps/s")]


def loading(episodes: Episodes, *, batches: int) -> list[Row]:
    """Gather random batches of segments from the memory-mapped arrays."""
    rows = []
    for horizon, stride in LAYOUTS:
        source = SegmentDataset(episodes, horizon, stride)
        rng = np.random.default_rng(0)

        def gather(source: SegmentDataset = source, rng: np.random.Generator = rng) -> None:
            for _ in range(batches):
                source.batch(rng.integers(len(source), size=BATCH))

        spent = min(timings(gather, repeats=3))
        setting = f"horizon {horizon}, stride {stride}, batch {BATCH}"
        rows.append(Row("loading", setting, batches * BATCH / spent, "segments/s"))
    return rows
