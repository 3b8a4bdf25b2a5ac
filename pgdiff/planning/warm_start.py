"""Starting the sampling of a plan from the one that is being followed, brought back to some noise.

Janner et al. (2022), section 3.3, propose it for speed: what little noise has to be removed takes
few steps. A plan brought back to no noise at all is that plan itself, kept as a candidate.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.diffusion import Known, Observed
from pgdiff.diffusion.level_schedules import LevelMatrix
from pgdiff.diffusion.noise import draw
from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.previous import Previous

Tokens = Float[Tensor, "batch tokens features"]


def candidate_levels(
    there: Bool[np.ndarray, " environments"],
    *,
    candidates: int,
    keep: bool,
    warm: float | None,
    share: float,
) -> Float[Tensor, " batch"]:
    """Level from which each candidate starts; the candidates of an environment side by side.

    Args:
        there: whether an environment has a plan to start from; 1 for all candidates where not.
        candidates: of each environment.
        keep: whether the first starts from level 0, as the plan itself.
        warm: level of those that start from the plan; None for none.
        share: share of the candidates that do so, rounded up; the plan itself not counted.
    """
    levels = torch.ones(candidates)
    kept = int(keep)
    if warm is not None:
        levels[kept : kept + math.ceil(share * (candidates - kept))] = warm
    levels[:kept] = 0.0
    has = torch.from_numpy(there)[:, None]
    return torch.where(has, levels, 1.0).reshape(-1)


def start_noise(
    schedule: NoiseSchedule,
    x0: Tokens,
    noise: Tokens,
    level: Float[Tensor, "batch tokens"],
) -> Tokens:
    """Noisy samples at these levels; at level 1 noise alone, whatever signal the schedule leaves.

    Args:
        schedule: signal and noise at a level.
        x0: the plans, normalised.
        noise: standard normal.
        level: of every token.
    """
    alpha, sigma = factors(schedule, level.to(x0))
    fresh = (level == 1.0)[..., None]
    return torch.where(fresh, 0.0, alpha * x0) + sigma * noise


def start_from(
    previous: Previous,
    model: TrajectoryDiffusion,
    known: Known,
    matrix: LevelMatrix,
    *,
    candidates: int,
    keep: bool,
    warm: float | None,
    share: float,
    generators: Sequence[torch.Generator],
    observed: Observed | None = None,
) -> tuple[Tokens, LevelMatrix, Known, Observed | None]:
    """Noisy candidates to start from, their level matrix, and what is given of each.

    Args:
        previous: what is left of the plans that are followed.
        model: to sample with.
        known: what is given of new plans.
        matrix: levels of a plan that starts from noise.
        candidates: of each environment.
        keep: whether the first of them is the plan itself.
        warm: level of those that start from the plan.
        share: share of the candidates that do so.
        generators: source of the noise.
        observed: what was measured of new plans.

    Returns:
        Candidates, levels, what is given, and what was measured. A kept plan's first token is
        given, not measured: all of it is to stay.
    """
    caps = candidate_levels(
        previous.there, candidates=candidates, keep=keep, warm=warm, share=share
    ).to(model.device)
    each = caps[:, None].expand(-1, matrix.shape[-1])
    if model.levels.per_token:  # what the plan does not have yet starts from noise
        valid = torch.from_numpy(previous.valid).to(caps.device)
        valid = valid.repeat_interleave(candidates, dim=0) | (caps == 0)[:, None]
        each = torch.where(valid, each, 1.0)
    kept = (caps == 0)[:, None, None]
    if observed is not None:  # a measured token comes from its measurement, not from the plan
        measured = observed.mask.any(dim=-1).to(caps.device)
        each = torch.where(measured & ~kept[:, 0], 1.0, each)
        first = observed.mask.to(caps.device) & kept
        known = Known(known.mask.to(caps.device) | first, known.values)
        observed = replace(observed, mask=observed.mask.to(caps.device) & ~kept)
    matrix = torch.minimum(matrix[:, None].to(caps), each)
    tokens = model.tokens_of(previous.observations, previous.actions)
    x0 = model.normalizer.normalize(tokens).repeat_interleave(candidates, dim=0)
    shape = (len(x0), x0.shape[1], x0.shape[2])
    noise = draw(shape, generators=generators, dtype=x0.dtype, device=x0.device)
    if keep:
        # Of a plan that is kept only the first token is given: its goal may be held elsewhere.
        mask = known.mask.expand(known.values.shape).clone()
        rows = torch.from_numpy(np.flatnonzero(previous.there)) * candidates
        mask[rows.to(mask.device), 1:] = False
        known = Known(mask, known.values)
    return start_noise(model.schedule, x0, noise, matrix[0]), matrix, known, observed
