"""`Trainer` against a bare loop over the same network."""

import numpy as np
import torch
from timing import Row, seconds

from pgdiff.data import Episodes
from pgdiff.denoisers import TransformerConfig
from pgdiff.model import Tokens, TrajectoryDiffusion
from pgdiff.training import Trainer
from pgdiff.training.learner import to_tensors

HORIZON, STRIDE, BATCH = 12, 10, 64
DENOISER = TransformerConfig(width=128, depth=3)
LEARNING_RATE = 3e-4


def make_model(episodes: Episodes) -> TrajectoryDiffusion:
    tokens = Tokens(horizon=HORIZON, stride=STRIDE)
    return TrajectoryDiffusion.from_episodes(episodes, tokens, denoiser=DENOISER)


def bare(model: TrajectoryDiffusion, episodes: Episodes, steps: int) -> None:
    """Train without clipping, average, checks and records."""
    source = model.dataset(episodes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    rng, generator = np.random.default_rng(0), torch.Generator()
    for _ in range(steps):
        batch = source.batch(rng.integers(len(source), size=BATCH))
        losses = model.losses(to_tensors(batch, torch.device("cpu")), generator)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()


def fit(model: TrajectoryDiffusion, episodes: Episodes, steps: int) -> None:
    Trainer(
        steps=steps,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        validation=0.0,
        device="cpu",
        progress=False,
    ).fit(model, episodes)


def training(
    episodes: Episodes, *, steps: int, repeats: int
) -> tuple[TrajectoryDiffusion, list[Row]]:
    """Return a model that was trained a little, and the speed of both loops.

    They run in turns under equal load; the first turn warms up, and the fastest of the others
    counts, since other processes can only slow a turn down.
    """
    spent: dict[str, list[float]] = {"bare loop": [], "Trainer": []}
    model = make_model(episodes)
    for repeat in range(repeats):
        for name, loop in (("bare loop", bare), ("Trainer", fit)):
            model = make_model(episodes)
            elapsed = seconds(lambda loop=loop, model=model: loop(model, episodes, steps))
            if repeat:
                spent[name].append(elapsed / steps)
    fastest = {name: min(times) for name, times in spent.items()}
    setting = f"width {DENOISER.width}, depth {DENOISER.depth}, {HORIZON} tokens, batch {BATCH}"
    rows = [
        Row(f"training, {name}", setting, 1 / value, "steps/s") for name, value in fastest.items()
    ]
    share = fastest["bare loop"] / fastest["Trainer"]
    return model, [*rows, Row("training, Trainer", "share of the bare loop's speed", share, "")]
