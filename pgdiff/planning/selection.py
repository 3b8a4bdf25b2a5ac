"""Selection of the candidate that becomes the plan."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.settings import part
from pgdiff.core.validation import (
    PgdiffError,
    check_flag,
    check_part,
    check_positive_int,
    check_range,
)
from pgdiff.diffusion import Inpainting
from pgdiff.diffusion.schedules import factors
from pgdiff.model import TrajectoryDiffusion
from pgdiff.trajectory import Condition, Plan

LEAST_SIGMA = 0.05
"""Least noise that a move is divided by: an in-painted token has no noise."""


@register("plausibility", "denoiser")
@dataclass(frozen=True, kw_only=True)
class Plausibility:
    """Refusal of candidates that the denoiser would correct by much.

    A little noise is added to a candidate and the model estimates the clean candidate. The distance
    by which it moves a token, in units of the noise, is the length of the score of the noised data
    times its standard deviation, `sigma |grad log p|` (Vincent 2011): small near data, large for a
    token that guides have pushed away from them. The noise is drawn in pairs of opposite signs, so
    that its first-order error cancels.

    Attributes:
        limit: greatest move of a token, in units of the noise; larger values refuse fewer
            candidates.
        log_snr: log signal-to-noise ratio of the noise; larger values mean less noise.
        tokens: number of tokens that are checked, from the second on; replanning replaces the later
            ones. None for all.
        features: indices of the features of an observation that are checked; None for all.
        pairs: number of pairs of noise; more of them average out its error and take more time.

    Example:
        >>> import numpy as np
        >>> from pgdiff import Plausibility
        >>> scores, moves = np.array([[3.0, 2.0, 1.0]]), np.array([[2.0, 0.5, 0.4]])
        >>> Plausibility(limit=1.2).best(scores, moves)
        array([1])
    """

    limit: float = 1.2
    log_snr: float = 2.5
    tokens: int | None = 8
    features: tuple[int, ...] | None = None
    pairs: int = 1

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0.0, open_low=True)
        check_range("log_snr", self.log_snr, low=-20.0, high=20.0)
        check_positive_int("pairs", self.pairs)
        if self.tokens is not None:
            check_positive_int("tokens", self.tokens)
        if self.features is not None:
            if isinstance(self.features, str) or not isinstance(self.features, Sequence):
                raise PgdiffError(f"`features` must be indices. Got {self.features!r}.")
            indices = tuple(check_positive_int("features", i, minimum=0) for i in self.features)
            object.__setattr__(self, "features", indices)

    @torch.no_grad()
    def moves(
        self,
        model: TrajectoryDiffusion,
        x: Float[Tensor, "batch tokens features"],
        inpainting: Inpainting,
        condition: Condition | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the greatest move of a token of each candidate, in units of the noise.

        Args:
            model: model that sampled the candidates.
            x: normalised candidates.
            inpainting: in-painting of the candidates.
            condition: condition of the candidates.
        """
        level = model.process.noise_schedule.level_at(
            torch.tensor([[self.log_snr]], dtype=torch.float64)
        ).to(x)
        levels = inpainting.levels(level.expand(1, x.shape[1])).to(x)
        alpha, sigma = factors(model.process.noise_schedule, levels)
        # All candidates get equal noise, so that chance does not decide between them.
        generator = torch.Generator().manual_seed(0)
        estimate = torch.zeros_like(x)
        for _ in range(self.pairs):
            noise = torch.randn(x.shape[1:], generator=generator).to(x)
            for sign in (1, -1):
                noisy = inpainting.hold(alpha * x + sign * sigma * noise)
                estimate += model.denoise(noisy, levels, condition) / (2 * self.pairs)
        moved = (estimate - x)[..., model.codec.feature_mask(("observations",))]
        if self.features is not None:
            moved = moved[..., list(self.features)]
        distance = moved.norm(dim=-1) / sigma[..., 0].clamp(min=LEAST_SIGMA)
        last = None if self.tokens is None else 1 + self.tokens
        greatest: Tensor = distance[:, 1:last].amax(dim=1)
        return greatest

    def best(
        self,
        scores: Float[np.ndarray, "environments candidates"],
        moves: Float[np.ndarray, "environments candidates"],
    ) -> np.ndarray:
        """Return the index of the best candidate within the limit.

        If no candidate is within the limit, it is the candidate with the least move.
        """
        objective = np.where(np.isnan(scores), 0.0, scores)
        objective = np.where(moves <= self.limit, objective, -np.inf)
        chosen: np.ndarray = np.where(
            (moves <= self.limit).any(axis=1), objective.argmax(axis=1), moves.argmin(axis=1)
        )
        return chosen


@register("selection", "selection")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """Settings of the choice of a candidate: the highest objective among the allowed ones wins.

    Attributes:
        keep_previous: whether the part of the current plan that was not executed yet is one of the
            candidates. It has no effect without guides or with a single candidate.
        scale_ladder: factors of the guides' scales, one for each candidate in turn; a ladder from
            small to large factors offers weakly and strongly guided candidates. None for 1.
        plausibility: limit on the distance by which the denoiser would move a candidate; None to
            allow every candidate.

    Example:
        >>> from pgdiff import Selection
        >>> Selection(scale_ladder=[0.25, 1.0]).scale_ladder
        (0.25, 1.0)
    """

    keep_previous: bool = False
    scale_ladder: Sequence[float] | None = None
    plausibility: Plausibility | None = field(default=None, metadata=part("plausibility"))

    def __post_init__(self) -> None:
        check_flag("keep_previous", self.keep_previous)
        object.__setattr__(self, "scale_ladder", _checked_ladder(self.scale_ladder))
        if self.plausibility is not None:
            check_part("plausibility", self.plausibility, Plausibility)

    def check(self, model: TrajectoryDiffusion) -> None:
        """Raise if plausibility checks features that the model's observations do not have."""
        if self.plausibility is None:
            return
        features, size = self.plausibility.features, model.codec.spec.observation_size
        if max(features or (0,)) >= size:
            raise PgdiffError(
                f"`features` of `plausibility` must be below {size}, the number of features of an "
                f"observation. Got {list(features or ())}."
            )


def _checked_ladder(factors: Sequence[float] | None) -> tuple[float, ...] | None:
    if factors is None:
        return None
    if isinstance(factors, np.ndarray | Tensor):
        factors = factors.tolist()
    if isinstance(factors, str) or not isinstance(factors, Sequence) or not factors:
        raise PgdiffError(
            f"`scale_ladder` must be numbers, for example [0.25, 0.5, 1]. Got {factors!r}."
        )
    return tuple(check_range("scale_ladder", factor, low=0.0) for factor in factors)


def make_plans(
    x: Float[Tensor, "batch tokens features"],
    model: TrajectoryDiffusion,
    *,
    scores: Float[np.ndarray, "environments candidates"],
    moves: Float[np.ndarray, "environments candidates"] | None,
    best: Int[np.ndarray, " environments"],
    goals: Float[np.ndarray, "environments goal"] | None,
) -> list[Plan]:
    """Return one plan for each environment.

    Args:
        x: normalised candidates; those of an environment are neighbours.
        model: model that sampled the candidates.
        scores: objectives of the candidates.
        moves: distances by which the denoiser would move the candidates.
        best: index of the chosen candidate.
        goals: goal of each environment.
    """
    count, candidates = scores.shape
    segment = model.codec.decode_plan(x)
    shape = (count, candidates, model.codec.spec.waypoints, -1)
    observations = segment.observations.reshape(shape).cpu().numpy()
    every_action = segment.every_action
    actions = None
    if every_action is not None:
        actions = every_action.reshape(count, candidates, *every_action.shape[1:]).cpu().numpy()
    return [
        Plan(
            observations=observations[i, best[i]],
            actions=None if actions is None else actions[i, best[i]],
            candidates=observations[i],
            scores=scores[i],
            best=int(best[i]),
            stride=model.codec.spec.stride,
            goal=None if goals is None else goals[i].copy(),
            moves=None if moves is None else moves[i],
        )
        for i in range(count)
    ]
