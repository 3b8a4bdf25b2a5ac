"""Log-likelihoods of segments under a model, and of actions under a policy."""

import inspect
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from pgdiff.core.validation import PgdiffError, check_positive_int
from pgdiff.data import Episodes, SegmentDataset
from pgdiff.data.transitions import rows_of
from pgdiff.model import TrajectoryDiffusion
from pgdiff.training.learner import to_tensors


@dataclass(frozen=True)
class ModelLikelihood:
    """Log-density of segments, in nats per feature of a token, of normalised features.

    Attributes:
        mean: mean over the segments; NaN without segments.
        standard_error: standard error of the mean.
        segments: number of segments.
        tokens: number of tokens of a segment.
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
    """Compute the mean log-likelihood of random segments of a data set under a model.

    The density is computed from the model's probability flow with Hutchinson's trace estimator
    (Song et al. 2021, section 4.3 and appendix D.2). A feature with no spread in the data, such as
    a terminal flag, has the width of the smallest noise. Figures therefore compare data sets under
    one model, not models.

    A generated trajectory is one row shorter than the model's horizon, because the last token has
    no next observation. Unless tokens contain the next observation, segments therefore have one
    token less, and the model is resized to that length.

    Args:
        model: a model that samples from noise alone (the in-painting pattern "none").
        episodes: a recording of the model's task.
        segments: maximum number of segments, each within one episode.
        steps: Runge-Kutta steps; larger values are more accurate.
        probes: probes of the trace estimator; larger values lower its variance.
        seed: seed of the segments and the probes.

    Raises:
        PgdiffError: if the model cannot sample without a start.
    """
    check_positive_int("segments", segments)
    has_next = "next_observations" in model.codec.spec.sizes
    resized = model if has_next else _shorten(model)
    tokens = resized.codec.tokens
    if episodes.lengths.max() < (tokens - 1) * resized.codec.spec.stride + 1:
        return ModelLikelihood(float("nan"), float("nan"), 0, tokens)
    source = SegmentDataset(
        episodes,
        tokens,
        resized.codec.spec.stride,
        fields=tuple(resized.codec.spec.sizes),
        padding="none",
    )
    order = np.random.default_rng(seed).permutation(len(source))[:segments]
    batch = to_tensors(source.batch(order), model.device)
    with torch.no_grad():
        raw = resized.log_likelihood(
            batch, pattern="none", method="hutchinson", probes=probes, steps=steps, seed=seed
        ).value
    features = tokens * resized.codec.features
    # Convert to the density of normalised features, which have a common unit.
    slope = resized.codec.log_slope(batch).sum(dim=(1, 2))
    each = (raw - slope).double().cpu().numpy() / features
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
    return ModelLikelihood(float(each.mean()), error, len(each), tokens)


def _shorten(model: TrajectoryDiffusion) -> TrajectoryDiffusion:
    """Return the model with the largest horizon below its present one that its network accepts."""
    for tokens in range(model.codec.tokens - 1, 0, -1):
        try:
            return model.resized(tokens).eval()
        except PgdiffError:  # a U-Net halves the tokens several times
            continue
    raise PgdiffError(
        f"`model` must accept fewer tokens than its horizon of {model.codec.tokens}. Got a model "
        "that does not. Leave out the model's likelihood."
    )


@dataclass(frozen=True)
class PolicyLikelihood:
    """Log-density of actions, in nats per action feature.

    Attributes:
        mean: mean over the rows.
        standard_error: standard error of the mean, clustered by episode, because rows of one
            episode may depend on each other. NaN for a single episode.
    """

    mean: float
    standard_error: float


@torch.no_grad()
def policy_likelihood(
    agent: Any, episodes: Episodes, *, rows: int = 5000, seed: int = 0
) -> PolicyLikelihood:
    """Compute the mean log-likelihood of the actions of random rows under a policy.

    The slope of a squashed density is unbounded at the actions' bounds. Beyond 0.99 of them it is
    replaced by its tangent, as in the guide `Policy`.

    Args:
        agent: an agent with `log_prob(observation, action)`.
        episodes: a recording of the agent's task.
        rows: maximum number of rows.
        seed: seed of the draw.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(rows_of(episodes))[:rows])
    observation, action = (
        torch.from_numpy(np.array(values[chosen])).to(_device(agent))
        for values in (episodes.observations, episodes.actions)
    )
    options = {"limit": 0.99} if "limit" in inspect.signature(agent.log_prob).parameters else {}
    each = agent.log_prob(observation, action, **options).double().cpu().numpy() / action.shape[1]
    mean = float(each.mean())
    order = np.argsort(episodes.starts)
    owner = np.searchsorted(episodes.starts[order], chosen, side="right")
    sums = np.bincount(owner, weights=each - mean)
    count = len(np.unique(owner))
    # The variance of a mean over clusters: sums of deviations within an episode are independent.
    error = np.sqrt((sums**2).sum() * count / (count - 1)) / len(each) if count > 1 else np.nan
    return PolicyLikelihood(mean, float(error))


def _device(agent: Any) -> torch.device:
    """Return the device of an agent's tensors; the CPU for an agent without tensors."""
    tensors = chain(agent.parameters(), agent.buffers()) if isinstance(agent, nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
