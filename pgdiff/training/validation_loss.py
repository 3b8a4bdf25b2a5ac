"""Held-out examples, and validation losses on fixed batches with fixed noise."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pgdiff.core.validation import PgdiffError
from pgdiff.training.learner import BatchSource, Learner, to_tensors
from pgdiff.training.learning_rate import VALIDATION, numpy_generator, torch_generator

if TYPE_CHECKING:
    from pgdiff.data import Episodes

BATCHES = 8


def split_sources(
    learner: Learner, episodes: "Episodes", *, validation: float, seed: int
) -> tuple[BatchSource, BatchSource | None]:
    """Return the training examples and the held-out ones (None without validation).

    Raises:
        PgdiffError: one of the parts has no example.
    """
    if validation == 0.0:
        train, held_out = episodes, None
    else:
        train, held_out = episodes.split(validation, seed=seed)
    source = learner.dataset(train)
    if len(source) == 0:
        raise PgdiffError(
            f"{type(learner).__name__} finds no example in the episodes. Record longer episodes, "
            "or use shorter segments."
        )
    if held_out is None:
        return source, None
    fix = (
        f"`validation` must leave {type(learner).__name__} at least one example in the held-out "
        f"episodes. Got {validation}. Pass a larger share, or 0 to disable validation."
    )
    try:
        held_out_source = learner.dataset(held_out)
    except PgdiffError as error:
        raise PgdiffError(f"{fix} ({error})") from error
    if len(held_out_source) == 0:
        raise PgdiffError(fix)
    return source, held_out_source


@torch.no_grad()
def held_out_losses(
    learner: Learner, source: BatchSource, *, seed: int, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Return the mean losses over at most 8 batches of distinct examples.

    Args:
        learner: the learner, in evaluation mode.
        source: the held-out examples.
        seed: seed of the choice of examples and of the noise.
        batch_size: examples per batch.
        device: device of the learner.
    """
    count = min(len(source), BATCHES * batch_size)
    order = numpy_generator(seed, 0, VALIDATION).choice(len(source), size=count, replace=False)
    sums: dict[str, float] = {}
    for number, indices in enumerate(np.split(order, range(batch_size, len(order), batch_size))):
        generator = torch_generator(seed, number, VALIDATION, device)
        batch = to_tensors(source.batch(indices), device)
        for name, loss in learner.losses(batch, generator).items():
            sums[name] = sums.get(name, 0.0) + float(loss) * len(indices)
    return {name: total / len(order) for name, total in sums.items()}
