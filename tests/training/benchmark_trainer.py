"""Updates per second of `Trainer` against a bare loop over the same network; printed, not asserted.

Run it with `python tests/training/benchmark_trainer.py`.
"""

import time

import numpy as np
import torch

from pgdiff.data import Episodes
from pgdiff.denoisers import TransformerConfig
from pgdiff.model import TrajectoryDiffusion
from pgdiff.training import Trainer
from pgdiff.training.learner import to_tensors


def make_episodes(rows: int = 20_000) -> Episodes:
    rng = np.random.default_rng(0)
    return Episodes.from_arrays(
        observations=rng.normal(size=(rows, 4)),
        actions=rng.normal(size=(rows, 2)),
        rewards=rng.normal(size=rows),
        terminals=np.zeros(rows),
        timeouts=np.arange(1, rows + 1) % 1000 == 0,
    )


def bare(model: TrajectoryDiffusion, episodes: Episodes, steps: int, batch_size: int) -> None:
    """Only what learning needs: no clipping, no average, no checks, no records."""
    source = model.dataset(episodes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    rng, generator = np.random.default_rng(0), torch.Generator()
    for _ in range(steps):
        batch = source.batch(rng.integers(len(source), size=batch_size))
        losses = model.losses(to_tensors(batch, torch.device("cpu")), generator)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()


def compare(episodes: Episodes, *, width: int, depth: int, steps: int) -> None:
    batch_size = 32
    seconds: dict[str, list[float]] = {"bare": [], "trainer": []}
    for repeat in range(6):  # in turns, so that both see the same machine; the first one warms up
        for name, times in seconds.items():
            model = TrajectoryDiffusion.from_episodes(
                episodes,
                horizon=32,
                stride=15,
                denoiser=TransformerConfig(width=width, depth=depth),
            )
            began = time.process_time()
            if name == "bare":
                bare(model, episodes, steps, batch_size)
            else:
                Trainer(
                    steps=steps,
                    batch_size=batch_size,
                    validation=0.0,
                    device="cpu",
                    progress=False,
                ).fit(model, episodes)
            if repeat:
                times.append((time.process_time() - began) / steps)
    fastest = {name: min(times) for name, times in seconds.items()}
    print(f"transformer of width {width}, depth {depth}, batch {batch_size}, 32 tokens, one thread")
    for name, value in fastest.items():
        print(f"  {name:8}{1e3 * value:7.2f} ms of CPU per update, {1 / value:6.1f} updates/s")
    print(f"  the trainer has {fastest['bare'] / fastest['trainer']:.3f} of the bare loop's speed")


def main() -> None:
    torch.set_num_threads(1)
    episodes = make_episodes()
    compare(episodes, width=128, depth=3, steps=40)
    compare(episodes, width=48, depth=2, steps=200)


if __name__ == "__main__":
    main()
