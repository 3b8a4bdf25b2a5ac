"""Settings of replanning, and the warm start of a sampling from the current plan.

Janner et al. (2022), section 3.3, propose the warm start for speed: less noise takes fewer steps to
remove. The current plan at noise level 0 is the plan itself, which is then kept as a candidate.
"""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.settings import part
from pgdiff.core.validation import check_part, check_positive_int, check_range
from pgdiff.diffusion import Inpainting, Measurement
from pgdiff.diffusion.level_schedules import LevelMatrix
from pgdiff.diffusion.noise import NoiseSource
from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.model import TrajectoryDiffusion

Observations = Float[np.ndarray, "environments tokens observation"]


@register("warm_start", "plan")
@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Candidates that start from the current plan with noise added, instead of from noise alone.

    Attributes:
        level: noise level of the noised plan, in (0, 1); larger values let candidates differ more
            from the plan.
        share: share of the candidates with a warm start, rounded up; the others start from noise.

    Example:
        >>> from pgdiff import WarmStart
        >>> WarmStart(level=0.4).share
        1.0
    """

    level: float = 0.5
    share: float = 1.0

    def __post_init__(self) -> None:
        check_range("level", self.level, low=0.0, high=1.0, open_low=True, open_high=True)
        check_range("share", self.share, low=0.0, high=1.0)


@register("replanning", "replanning")
@dataclass(frozen=True, kw_only=True)
class Replanning:
    """Settings of replanning and of the way-point that the controller drives to.

    Attributes:
        every: environment steps between plans; smaller values react sooner and take more time.
            None is open loop: a plan is followed to its end, and then its last way-point is held
            (or its last action repeated) until the episode ends.
        lookahead: number of way-points from the present one to the controller's target; 1 is the
            next way-point. Use more if the controller needs more steps than the stride to correct
            an error.
        warm_start: warm start of candidates from the current plan; None to start from noise.

    Example:
        >>> from pgdiff import Replanning
        >>> Replanning(every=None).lookahead
        1
    """

    every: int | None = 10
    lookahead: int = 1
    warm_start: WarmStart | None = field(default=None, metadata=part("warm_start"))

    def __post_init__(self) -> None:
        if self.every is not None:
            object.__setattr__(self, "every", check_positive_int("every", self.every))
        lookahead = check_positive_int("lookahead", self.lookahead)
        object.__setattr__(self, "lookahead", lookahead)
        if self.warm_start is not None:
            check_part("warm_start", self.warm_start, WarmStart)


Actions = Float[np.ndarray, "environments steps action"]


class PreviousPlan(NamedTuple):
    """The rest of the current plans, shifted so that they begin at the present step; raw units.

    Attributes:
        observations: `[environments, tokens, observation]`.
        actions: `[environments, steps, action]`, or `[environments, tokens, action]` for a model
            with one action a token; None for a model without actions.
        exists: `[environments]`, whether the environment has a current plan.
        valid: `[environments, tokens]`, whether the plan reaches as far as the token; later tokens
            repeat its last one.
    """

    observations: Observations
    actions: Actions | None
    exists: Bool[np.ndarray, " environments"]
    valid: Bool[np.ndarray, "environments tokens"]


def shift_plans(
    observations: Observations,
    actions: Actions | None,
    age: Int[np.ndarray, " environments"],
    stride: int,
    *,
    action_stride: int = 1,
) -> PreviousPlan:
    """Return the rest of plans, whose first token is the plan's observation of the present step.

    Plans are interpolated linearly between tokens. Past the end of a plan its last token and its
    last action are repeated. A negative `age` means that the environment has no plan.

    Args:
        observations: observations of the plans as they were made.
        actions: actions of the plans as they were made.
        age: environment steps since then.
        stride: environment steps between tokens.
        action_stride: environment steps between actions.
    """
    tokens = observations.shape[1]
    environments = np.arange(len(observations))[:, None]
    exists = age >= 0
    position = np.maximum(age, 0)[:, None] / stride + np.arange(tokens)
    valid = exists[:, None] & (position <= tokens - 1)
    position = np.minimum(position, tokens - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, tokens - 1)
    share = (position - low)[..., None].astype(observations.dtype)
    rest = (1 - share) * observations[environments, low] + share * observations[environments, high]
    rest_actions = None
    if actions is not None:
        steps = np.maximum(age, 0)[:, None] // action_stride + np.arange(actions.shape[1])
        rest_actions = actions[environments, np.minimum(steps, actions.shape[1] - 1)]
    return PreviousPlan(rest, rest_actions, exists, valid)


Tokens = Float[Tensor, "batch tokens features"]


def candidate_levels(
    exists: Bool[np.ndarray, " environments"],
    *,
    candidates: int,
    keep: bool,
    warm_start: WarmStart | None,
) -> Float[Tensor, " batch"]:
    """Return the level from which each candidate starts, in the order of the batch.

    Args:
        exists: whether an environment has a current plan; without one, all its candidates start
            from level 1.
        candidates: number of candidates of each environment, which are neighbours in the batch.
        keep: whether the first candidate starts from level 0, as the current plan itself.
        warm_start: settings of the warm start; its share does not count the plan itself.
    """
    levels = torch.ones(candidates)
    kept = int(keep)
    if warm_start is not None:
        count = math.ceil(warm_start.share * (candidates - kept))
        levels[kept : kept + count] = warm_start.level
    levels[:kept] = 0.0
    return torch.where(torch.from_numpy(exists)[:, None], levels, 1.0).reshape(-1)


def start_noise(
    noise_schedule: NoiseSchedule,
    x0: Tokens,
    noise: Tokens,
    level: Float[Tensor, "batch tokens"],
) -> Tokens:
    """Return plans with noise of these levels; tokens at level 1 are noise without any signal.

    Args:
        noise_schedule: noise schedule of the model.
        x0: normalised plans.
        noise: standard normal noise.
        level: noise level of every token.
    """
    alpha, sigma = factors(noise_schedule, level.to(x0))
    fresh = (level == 1.0)[..., None]
    return torch.where(fresh, 0.0, alpha * x0) + sigma * noise


def start_from(
    previous: PreviousPlan,
    model: TrajectoryDiffusion,
    inpainting: Inpainting,
    matrix: LevelMatrix,
    *,
    candidates: int,
    keep: bool,
    warm_start: WarmStart | None,
    noise: NoiseSource,
    measurement: Measurement | None = None,
) -> tuple[Tokens, LevelMatrix, Inpainting, Measurement | None]:
    """Return noisy candidates, their level matrix, in-painting and measurement.

    The first token of a kept plan is in-painted, not measured, so that the plan does not change.

    Args:
        previous: rest of the current plans.
        model: model that samples the plans.
        inpainting: in-painting of plans that start from noise.
        matrix: levels of plans that start from noise.
        candidates: number of candidates of each environment.
        keep: whether the first candidate is the current plan itself.
        warm_start: warm start of the other candidates; None to start them from noise.
        noise: source of the noise.
        measurement: measurement of plans that start from noise.
    """
    caps = candidate_levels(
        previous.exists, candidates=candidates, keep=keep, warm_start=warm_start
    ).to(model.device)
    token_caps = caps[:, None].expand(-1, matrix.shape[-1])
    if model.process.level_distribution.per_token:  # tokens past the plan's end start from noise
        valid = torch.from_numpy(previous.valid).to(caps.device)
        valid = valid.repeat_interleave(candidates, dim=0) | (caps == 0)[:, None]
        token_caps = torch.where(valid, token_caps, 1.0)
    kept = (caps == 0)[:, None, None]
    if measurement is not None:  # a measured token starts from its measurement
        measured = measurement.mask.any(dim=-1).to(caps.device)
        token_caps = torch.where(measured & ~kept[:, 0], 1.0, token_caps)
        first = measurement.mask.to(caps.device) & kept
        inpainting = Inpainting(inpainting.mask.to(caps.device) | first, inpainting.values)
        measurement = replace(measurement, mask=measurement.mask.to(caps.device) & ~kept)
    matrix = torch.minimum(matrix[:, None].to(caps), token_caps)
    plans = model.codec.as_batch(previous.observations, previous.actions, device=model.device)
    x0 = model.codec.encode(plans).repeat_interleave(candidates, dim=0)
    shape = (len(x0), x0.shape[1], x0.shape[2])
    fresh = noise.normal(shape, dtype=x0.dtype, device=x0.device)
    if keep:
        # Only the first token of a kept plan is in-painted: its goal may be held elsewhere.
        mask = inpainting.mask.expand(inpainting.values.shape).clone()
        rows = torch.from_numpy(np.flatnonzero(previous.exists)) * candidates
        mask[rows.to(mask.device), 1:] = False
        inpainting = Inpainting(mask, inpainting.values)
    start = start_noise(model.process.noise_schedule, x0, fresh, matrix[0])
    return start, matrix, inpainting, measurement
