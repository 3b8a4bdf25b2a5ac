"""Held-out examples, and losses on them: the same batches with the same noise every time."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pgdiff.training.learner import BatchSource, Learner, to_tensors
from pgdiff.training.schedule import VALIDATION, numpy_generator, torch_generator
from pgdiff.validation import PgdiffError

if TYPE_CHECKING:
    from pgdiff.data import Episodes

BATCHES = 8


def split_sources(
    learner: Learner, episodes: "Episodes", *, validation: float, seed: int
) -> tuple[BatchSource, BatchSource | None]:
    """Return the examples to learn from, and those of the episodes that are held out, if any.

    Raises:
        PgdiffError: either has no example.
    """
    if validation == 0.0:
        train, held_out = episodes, None
    else:
        train, held_out = episodes.split(validation, seed=seed)
    source = learner.dataset(train)
    if len(source) == 0:
        raise PgdiffError(
            f"{type(learner).__name__} finds no example in the episodes: longer episodes, or "
            "shorter segments, are needed."
        )
    if held_out is None:
        return source, None
    mend = (
        f"`validation` must leave {type(learner).__name__} some example in the held-out "
        f"episodes. Got {validation}: give a larger share, or 0 for no validation."
    )
    try:
        held_out_source = learner.dataset(held_out)
    except PgdiffError as error:
        raise PgdiffError(f"{mend} ({error})") from error
    if len(held_out_source) == 0:
        raise PgdiffError(mend)
    return source, held_out_source


@torch.no_grad()
def held_out_losses(
    learner: Learner, source: BatchSource, *, seed: int, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Return the mean losses of at most 8 batches of different examples.

    Args:
        learner: in evaluation mode.
        source: the held-out examples.
        seed: of their choice and of the noise.
        batch_size: examples of a batch.
        device: the learner's.
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
