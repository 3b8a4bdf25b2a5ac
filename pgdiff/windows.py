"""Roll-outs longer than a model's horizon, window by window."""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.clipping import Limits, on_bounds
from pgdiff.diffusion import Guidance, HistoryGuidance, Known, MonteCarlo, Solver, TrustRegion
from pgdiff.diffusion.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import LevelSchedule
from pgdiff.diffusion.parts import check_kinds
from pgdiff.diffusion.spacing import Spacing
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Condition, Segment
from pgdiff.validation import PgdiffError, check_positive_int, check_seed, nearest


class RolloutSettings(TypedDict, total=False):
    """Arguments of `TrajectoryDiffusion.sample` that every window is sampled with."""

    steps: int
    spacing: Spacing | None
    levels: LevelSchedule | None
    solver: Solver | None
    condition: Condition | None
    classifier_free: ClassifierFree | None
    guidance: Sequence[Guidance]
    trust_region: TrustRegion | None
    monte_carlo: MonteCarlo | None
    clip: float | Limits | Literal["auto"] | None
    stabilization: float
    cache: bool


def rollout(
    model: TrajectoryDiffusion,
    observations: Float[Tensor, "batch observation"] | Float[np.ndarray, "batch observation"],
    *,
    tokens: int,
    horizon: int | None = None,
    context: int | None = None,
    history: HistoryGuidance | None = None,
    until: Callable[[Segment], Bool[Tensor, "batch tokens"]] | None = None,
    seed: int = 0,
    **settings: Unpack[RolloutSettings],
) -> Segment:
    """Generate trajectories of any length from these observations.

    The first window begins with an observation. Each later one is given the last `context` tokens
    of what there is, as clean tokens, and goes on from there (Chen et al. 2024, "Diffusion
    Forcing", section 4.1). It is made for models trained with a noise level for each token; another
    has not seen histories, and a warning says so.

    Args:
        model: its tokens hold observations.
        observations: to begin from, in raw units.
        tokens: of each trajectory, the first at the observation; more than the horizon or fewer.
        horizon: tokens of a window; those of the layout if None. Fewer need a causal network.
        context: tokens that a window is given, from 1 to the horizon less 1; half the horizon if
            None.
        history: views of these tokens, whose estimates add up; of no effect in the first window.
        until: where each trajectory has arrived. Windows are added until every trajectory has
            somewhere, or there are `tokens`; what all of them have after they first arrived is cut
            off. None for all `tokens`.
        seed: of all noise.
        settings: of the sampling, by the names of `RolloutSettings`; see
            `TrajectoryDiffusion.sample`. The energy of `guidance` is that of each window by itself.

    Returns:
        `[batch, tokens, ...]` in raw units, with `until` perhaps fewer tokens.

    Raises:
        PgdiffError: a setting that is unknown or out of its range, or samples that are not finite.
    """
    for name in settings:
        if name not in RolloutSettings.__annotations__:
            raise PgdiffError(
                f"`rollout` has no setting '{name}'. "
                f"It must be {nearest(name, RolloutSettings.__annotations__)}"
            )
    horizon = model.checked_horizon(horizon)
    check_kinds(history=history)
    tokens = check_positive_int("tokens", tokens)
    context = max(1, horizon // 2) if context is None else check_positive_int("context", context)
    if context >= horizon:
        raise PgdiffError(
            f"`context` must be less than the {horizon} tokens of a window. Got {context}."
        )
    if tokens > horizon and not model.levels.per_token:
        warnings.warn(
            f"This model was trained with {model.levels!r}, one level for the whole sequence; it "
            "has not seen histories, and may not go on from them.",
            stacklevel=2,
        )
    generators = [torch.Generator(model.device).manual_seed(check_seed("seed", seed))]
    begin = torch.as_tensor(observations, dtype=torch.float32, device=model.device)
    where = model.layout.slices["observations"]
    if begin.ndim != 2 or begin.shape[1] != where.stop - where.start:
        raise PgdiffError(
            f"`observations` must have shape [batch, {where.stop - where.start}]. "
            f"Got {list(begin.shape)}."
        )
    batch = len(begin)
    before = model.layout.slices.get("previous_actions", slice(0, 0))
    none = torch.zeros(model.layout.features, device=begin.device)
    none = model.normalizer.normalize(none)[before]
    known = model.given(begin)
    x = model.sample(batch=batch, generators=generators, known=known, horizon=horizon, **settings)
    while x.shape[1] < tokens and (until is None or _arrival(until, model.segment(x)) is None):
        mask = torch.zeros(1, horizon, x.shape[2], dtype=torch.bool, device=x.device)
        mask[:, :context] = True
        values = x.new_zeros(batch, horizon, x.shape[2])
        values[:, :context] = x[:, -context:]
        values[:, 0, before] = none  # nothing in this window leads to its first token
        window = model.sample(
            batch=batch,
            generators=generators,
            known=Known(mask, values),
            horizon=horizon,
            history=history,
            **settings,
        )
        x = torch.cat([x, window[:, context:]], dim=1)
    last = None if until is None else _arrival(until, model.segment(x[:, :tokens]))
    kept = x[:, : tokens if last is None else last + 1]
    return on_bounds(model.segment(kept), model.action_range)


def _arrival(until: Callable[[Segment], Tensor], segment: Segment) -> int | None:
    """Token by which every trajectory has arrived; None if one has not."""
    there, shape = until(segment), segment.observations.shape[:2]
    if not isinstance(there, Tensor) or there.dtype != torch.bool or there.shape != shape:
        raise PgdiffError(
            f"`until` must return a tensor of bool of the shape {list(shape)}. Got "
            + (
                f"{there.dtype} of {list(there.shape)}."
                if isinstance(there, Tensor)
                else f"{there!r}."
            )
        )
    if not there.any(dim=1).all():
        return None
    return int(there.int().argmax(dim=1).max())
