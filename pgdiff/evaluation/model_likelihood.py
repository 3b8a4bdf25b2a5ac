"""How likely segments are under the diffusion model itself."""

from dataclasses import dataclass

import numpy as np
import torch

from pgdiff.data import Episodes, SegmentDataset
from pgdiff.model import TrajectoryDiffusion
from pgdiff.training.learner import to_tensors
from pgdiff.validation import PgdiffError, check_positive_int


@dataclass(frozen=True)
class ModelLikelihood:
    """Log-density of segments, in nats per feature of a token, of normalised features.

    Attributes:
        mean: over the segments; NaN where there are none.
        standard_error: of the mean.
        segments: how many.
        tokens: of a segment.
    """

    mean: float
    standard_error: float
    segments: int
    tokens: int


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

    A generated trajectory is a row shorter than the model's, since nobody knows what follows its
    last token. So segments have a token less, where the tokens do not tell the next observation,
    and the model is asked for as many.

    Args:
        model: generates segments from noise alone (`known` holds "none").
        episodes: of the model's task.
        segments: drawn, at most, each within one episode.
        steps: Runge-Kutta steps.
        probes: of the trace.
        seed: of the draw and the probes.

    Raises:
        PgdiffError: a model that always needs a start.
    """
    check_positive_int("segments", segments)
    told = "next_observations" in model.layout.slices
    asked = model if told else _shorter(model)
    tokens = asked.layout.horizon
    if episodes.lengths.max() < (tokens - 1) * asked.layout.stride + 1:
        return ModelLikelihood(float("nan"), float("nan"), 0, tokens)
    source = SegmentDataset(
        episodes, tokens, asked.layout.stride, fields=tuple(asked.layout.slices), padding="none"
    )
    order = np.random.default_rng(seed).permutation(len(source))[:segments]
    batch = to_tensors(source.batch(order), model.device)
    with torch.no_grad():
        raw = asked.log_likelihood(
            batch, known="none", method="hutchinson", probes=probes, steps=steps, seed=seed
        ).value
    features = tokens * asked.layout.features
    # Back to normalised features, which have one unit for all.
    slope = asked.normalizer.log_slope(asked.tokens(batch)).sum(dim=(1, 2))
    each = (raw - slope).double().cpu().numpy() / features
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
    return ModelLikelihood(float(each.mean()), error, len(each), tokens)


def _shorter(model: TrajectoryDiffusion) -> TrajectoryDiffusion:
    """The same network for a token less, or as many less as it can do with."""
    for tokens in range(model.layout.horizon - 1, 0, -1):
        try:
            return model.resized(tokens).eval()
        except PgdiffError:  # a U-Net halves the tokens several times
            continue
    raise PgdiffError(
        f"`model` must take fewer tokens than its {model.layout.horizon}. Got one that does not."
    )
