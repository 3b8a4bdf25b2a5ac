"""How likely segments are under the diffusion model itself."""

from dataclasses import dataclass

import numpy as np
import torch

from pgdiff.data import Episodes
from pgdiff.model import TrajectoryDiffusion
from pgdiff.training.learner import to_tensors
from pgdiff.validation import PgdiffError, check_positive_int


@dataclass(frozen=True)
class ModelLikelihood:
    """Log-density of segments, in nats per feature of a token, of normalised features.

    Attributes:
        mean: over the segments.
        standard_error: of the mean.
        segments: how many.
    """

    mean: float
    standard_error: float
    segments: int


def model_likelihood(
    model: TrajectoryDiffusion,
    episodes: Episodes,
    *,
    segments: int = 32,
    steps: int = 25,
    probes: int = 2,
    seed: int = 0,
) -> ModelLikelihood:
    """Measure how likely a model finds random segments of a data set.

    The density is that of the model's probability flow, by Hutchinson's trace (Song et al. 2021,
    section 4.3 and appendix D.2). What has no width in the data, as a flag of the terminal, counts
    as wide as the least noise: figures compare data sets under one model, not models.

    Args:
        model: generates segments from noise alone (`known` holds "none").
        episodes: of the model's task.
        segments: drawn, at most; those that the data set must pad are left out.
        steps: Runge-Kutta steps.
        probes: of the trace.
        seed: of the draw and the probes.

    Raises:
        PgdiffError: no whole segment, or a model that always needs a start.
    """
    check_positive_int("segments", segments)
    source = model.dataset(episodes)
    order = np.random.default_rng(seed).permutation(len(source))[: 4 * segments]
    drawn = source.batch(order)
    whole = np.flatnonzero(drawn.mask.all(axis=1))[:segments]
    if not len(whole):
        raise PgdiffError(
            f"A data set must hold segments of the model's {model.layout.horizon} tokens to be "
            "asked how likely they are. Got none."
        )
    batch = to_tensors(source.batch(order[whole]), model.device)
    with torch.no_grad():
        raw = model.log_likelihood(
            batch, known="none", method="hutchinson", probes=probes, steps=steps, seed=seed
        ).value
    features = model.layout.horizon * model.layout.features
    # Back to normalised features, which have one unit for all.
    slope = model.normalizer.log_slope(model.tokens(batch)).sum(dim=(1, 2))
    each = (raw - slope).double().cpu().numpy() / features
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
    return ModelLikelihood(float(each.mean()), error, len(each))
