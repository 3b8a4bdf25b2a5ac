"""Filter of noisy and missing observations by a model with a noise level for each token.

Such a model accepts a history of any quality: a noisy observation is a noisy token. Its clean
estimate of the last token, given the earlier tokens and the actions since, is the estimate of a
Bayes filter; this is how Chen et al. (2024, "Diffusion Forcing") interpret their model.

A model is confident near its training data and mistakes an unrecorded state, such as rest at a
goal, for a recorded one nearby. If the model is right, its estimates differ from the observations
by at most the noise on average. Estimates that differ by more are therefore weighted less.

Plans start from the estimate alone; plans that started with the history were worse.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_level, check_positive_int
from pgdiff.data.fields import token_field
from pgdiff.diffusion import Inpainting, Measurement
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.state import ObservationHistory, PlannerState

Observations = Float[np.ndarray, "environments observation"]


def checked_levels(levels: Any, *, count: int) -> Float[np.ndarray, " environments"]:
    """Return the noise level of each observation, given one for all or one for each."""
    given = np.asarray(levels, dtype=object)
    if given.shape not in ((), (count,)):
        raise PgdiffError(
            f"`levels` must hold {count} levels, one for each environment. Got the shape "
            f"{list(given.shape)}."
        )
    checked = [check_level("levels", level) for level in np.broadcast_to(given, count).tolist()]
    return np.array(checked, dtype=np.float64)


def split_measured(
    inpainting: Inpainting, levels: Float[np.ndarray, " environments"], *, candidates: int
) -> tuple[Inpainting, Measurement]:
    """Split an in-painting into one without noisy first tokens, and their measurement.

    Args:
        inpainting: in-painting of the candidates; those of an environment are neighbours.
        levels: noise level of each environment's first token; 0 without noise.
        candidates: number of candidates of each environment.
    """
    level = torch.from_numpy(levels).to(inpainting.values).repeat_interleave(candidates)
    first = inpainting.mask.expand(inpainting.values.shape).clone()
    first[:, 1:] = False
    first &= (level > 0)[:, None, None]
    rest = Inpainting(inpainting.mask & ~first, inpainting.values)
    return rest, Measurement(first, inpainting.values, level)


def join_measured(inpainting: Inpainting, measurement: Measurement | None, x: Tensor) -> Inpainting:
    """Return the in-painting of finished plans, which includes their estimates of measurements."""
    if measurement is None:
        return inpainting
    values = torch.where(measurement.mask, x, inpainting.values)
    return Inpainting(inpainting.mask | measurement.mask, values)


def find_missing(observations: np.ndarray) -> Bool[np.ndarray, " environments"]:
    """Return True for each missing observation, whose features are all NaN."""
    if observations.dtype.kind != "f" or observations.ndim != 2:
        return np.zeros(len(observations), bool)
    return np.asarray(np.isnan(observations).all(axis=1))


def fill_missing(
    observations: Observations,
    missing: Bool[np.ndarray, " environments"],
    state: PlannerState,
    stride: int,
) -> Observations:
    """Replace missing observations by the current plans' observation of the present step.

    Raises:
        PgdiffError: an observation is missing in an environment without a plan.
    """
    early = np.flatnonzero(missing & (state.age < 0))
    if len(early):
        raise PgdiffError(
            "`observation` must not be missing at the beginning of an episode, because no plan "
            f"predicts it. Got NaN for environment {early[0]}."
        )
    expected = state.expected_observation(stride)
    return np.where(missing[:, None], expected, observations).astype(np.float32)


@register("observation_filter", "diffusion")
@dataclass(frozen=True, kw_only=True)
class ObservationFilter:
    """Settings of noisy and missing observations.

    Attributes:
        noise_level: noise level of the observations, in [0, 1). Larger values trust an observation
            less; 0 treats it as exact. `pgdiff.diffusion.level_of_noise` returns the level of a
            standard deviation.
        missing_level: noise level of the current plan's prediction, in [0, 1), which replaces a
            missing observation (NaN in all features); None to refuse missing observations.
        history_tokens: number of past tokens from which the model estimates the present state; it
            then plans from the estimate. 0 plans from the noisy observation itself. It needs a
            causal model with a noise level for each token.

    Example:
        >>> from pgdiff import ObservationFilter
        >>> ObservationFilter(noise_level=0.1, history_tokens=4).active
        True
    """

    noise_level: float = 0.0
    missing_level: float | None = None
    history_tokens: int = 0

    def __post_init__(self) -> None:
        check_level("noise_level", self.noise_level)
        if self.missing_level is not None:
            check_level("missing_level", self.missing_level)
        tokens = check_positive_int("history_tokens", self.history_tokens, minimum=0)
        object.__setattr__(self, "history_tokens", tokens)
        if tokens and not self.active:
            warnings.warn(
                "`history_tokens` has no effect without noisy or missing observations: set "
                "`noise_level` or `missing_level`.",
                stacklevel=3,
            )

    @property
    def active(self) -> bool:
        """Return whether observations may be noisy or missing."""
        return self.noise_level > 0 or self.missing_level is not None

    def check(self, model: TrajectoryDiffusion) -> None:
        """Raise if the model cannot filter observations with a history."""
        check_history(self.history_tokens, model)


def check_history(tokens: int, model: TrajectoryDiffusion) -> None:
    """Raise if a model cannot estimate the present from this number of past tokens."""
    if not tokens:
        return
    if not model.process.level_distribution.per_token:
        raise PgdiffError(
            "`history_tokens` must be 0 for a model with one noise level for all tokens. "
            f"Got {tokens}. Train a model with a level for each token, such as `recipe=forcing`."
        )
    unknown = sorted(n for n in model.codec.spec.sizes if not token_field(n).given_at_start)
    if unknown:
        raise PgdiffError(
            f"`history_tokens` must be 0 for a model whose tokens hold '{unknown[0]}', because its "
            f"value at the present token is not known yet. Got {tokens}."
        )
    if tokens >= model.codec.tokens:
        raise PgdiffError(
            f"`history_tokens` must be less than the {model.codec.tokens} tokens of the model, one "
            f"of which is the present. Got {tokens}."
        )
    if not model.causal:
        raise PgdiffError(
            f"`history_tokens` must be 0 for a model that is not causal. Got {tokens}."
        )
    if model.conditions.names and model.conditions.dropout == 0:
        raise PgdiffError(
            "`history_tokens` must be 0 for a model that was trained with a condition dropout of "
            f"0, because the past is estimated without a condition. Got {tokens}."
        )


def estimate_present(
    model: TrajectoryDiffusion,
    observations: Float[np.ndarray, "environments observation"],
    levels: Float[np.ndarray, " environments"],
    past: ObservationHistory,
) -> Float[np.ndarray, "environments observation"]:
    """Return the model's estimates of noisy observations, given the history.

    The estimates are not conditioned: the conditions of plans say nothing about the present state.

    Args:
        model: a causal model with a noise level for each token.
        observations: present observations, raw units.
        levels: noise levels of the present observations; an observation at level 0 is returned
            unchanged.
        past: the history.

    Raises:
        PgdiffError: an estimate is not finite.
    """
    stride, estimates = model.codec.spec.stride, observations.copy()
    tokens = past.recorded // stride
    for count in np.unique(tokens[levels > 0]).tolist():
        rows = np.flatnonzero((tokens == count) & (levels > 0))
        history = past.last(rows, count * stride)
        estimates[rows] = _estimate_last(model, observations[rows], levels[rows], history)
    if not np.isfinite(estimates).all():
        raise PgdiffError(
            "`model` must estimate finite observations, got NaN or Inf. Check its weights."
        )
    return estimates


def trust(
    model: TrajectoryDiffusion, levels: Float[np.ndarray, " environments"], past: ObservationHistory
) -> Float[np.ndarray, "environments observation"]:
    """Return the weights of estimates: 1 if they differed by no more than the noise explains.

    A weight is the summed variance of the noise, by each step's level, divided by the sum of
    `past.moved` squared, at most 1. If the model is right, an estimate is the observation without a
    part of its noise, and the weight is 1. Missing observations are left out. Steps before the
    beginning of the episode count as explained, so that the weight is 1 at its beginning.

    Args:
        model: model that made the estimates.
        levels: noise levels of the present observations, also used for the steps before the
            beginning of the episode.
        past: the history.
    """
    steps, scale = past.levels.shape[1], model.codec.observation_scale()
    early = np.arange(steps) < steps - past.recorded[:, None]
    level = torch.from_numpy(np.where(early, levels[:, None], past.levels))
    ratio = (
        model.process.noise_schedule.sigma(level) / model.process.noise_schedule.alpha(level)
    ).numpy()
    seen = ~np.isnan(past.moved)
    moved = np.square(np.where(seen, past.moved, 0.0)).sum(axis=1)
    noise = (seen * np.square(ratio[..., None] * scale)).sum(axis=1)
    return np.asarray(np.where(moved > noise, noise / np.where(moved > 0, moved, 1.0), 1.0))


@torch.no_grad()
def _estimate_last(
    model: TrajectoryDiffusion,
    observations: np.ndarray,
    levels: np.ndarray,
    past: ObservationHistory,
) -> np.ndarray:
    """Return clean estimates of the last token; executed actions are known and have no noise."""
    stride, steps = model.codec.spec.stride, past.levels.shape[1]
    all_observations = np.concatenate(
        [past.observations[:, ::stride], observations[:, None]], axis=1
    )
    actions = None if model.codec.spec.action_size is None else past.actions
    batch = model.codec.as_batch(all_observations, actions, device=model.device)
    levels = np.concatenate([past.levels[:, ::stride], levels[:, None]], axis=1)
    assert steps % stride == 0
    level = torch.from_numpy(levels.astype(np.float32)).to(model.device)
    x = model.codec.encode(batch)
    x0_hat = model.denoise(model.process.noise_schedule.alpha(level)[..., None] * x, level)
    return np.asarray(model.codec.decode(x0_hat).observations[:, -1].cpu().numpy())
