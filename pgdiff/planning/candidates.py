"""From sampled candidates to plans in raw units."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from pgdiff.clipping import on_bounds
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Plan


def plans_of(
    x: Float[Tensor, "batch tokens features"],
    model: TrajectoryDiffusion,
    *,
    scores: Float[np.ndarray, "environments candidates"],
    moves: Float[np.ndarray, "environments candidates"] | None,
    best: Int[np.ndarray, " environments"],
    goals: Float[np.ndarray, "environments goal"] | None,
) -> list[Plan]:
    """Make one plan for each environment.

    Args:
        x: normalised candidates, those of an environment side by side.
        model: that drew them.
        scores: the guides' energies.
        moves: how far the denoiser would move them.
        best: number of the chosen candidate.
        goals: what was asked for.
    """
    count, candidates = scores.shape
    segment = on_bounds(model.segment(x), model.action_range)
    shape = (count, candidates, model.layout.horizon, -1)
    observations = segment.observations.reshape(shape).cpu().numpy()
    found = segment.every_action
    actions = None
    if found is not None:
        actions = found.reshape(count, candidates, *found.shape[1:]).cpu().numpy()
    return [
        Plan(
            observations=observations[i, best[i]],
            actions=None if actions is None else actions[i, best[i]],
            candidates=observations[i],
            scores=scores[i],
            best=int(best[i]),
            stride=model.layout.stride,
            goal=None if goals is None else goals[i].copy(),
            moves=None if moves is None else moves[i],
        )
        for i in range(count)
    ]
