"""Whether a plan is one that the model itself would make: guidance may push it through a wall."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion import Known
from pgdiff.diffusion.schedules import factors
from pgdiff.model import TrajectoryDiffusion
from pgdiff.registry import register
from pgdiff.trajectory import Condition
from pgdiff.validation import PgdiffError, check_positive_int, check_range

LEAST_SIGMA = 0.05
"""Noise below which a token's move is not measured: a token that is known has none."""


@register("plausibility", "denoiser")
@dataclass(frozen=True, kw_only=True)
class Plausibility:
    """Refuses candidates that the denoiser would mend.

    A little noise is added to a candidate and the model is asked for the clean one. How far it
    moves a token, in units of that noise, is the length of the score of the noised data times its
    deviation, `sigma |grad log p|` (Vincent 2011): small where data lie, large where a token was
    pushed to where none do. The noise comes in pairs of opposite signs, whose first-order error
    cancels.

    Attributes:
        limit: how far a token may be moved.
        log_snr: of the noise.
        tokens: tokens that are looked at, from the second on; those further ahead will be planned
            anew. All if None.
        features: features of an observation that are looked at, by index; all if None.
        pairs: pairs of noise.
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
        known: Known,
        condition: Condition | None = None,
    ) -> Float[Tensor, " batch"]:
        """Greatest move of a token of each candidate, in units of the noise.

        Args:
            model: that drew the candidates.
            x: the candidates, normalised.
            known: what is given of them.
            condition: what they were asked to be like.
        """
        level = model.schedule.level_at(torch.tensor([[self.log_snr]], dtype=torch.float64)).to(x)
        levels = known.levels(level.expand(1, x.shape[1])).to(x)
        alpha, sigma = factors(model.schedule, levels)
        # The same noise for every candidate: none is judged by better or worse luck.
        generator = torch.Generator().manual_seed(0)
        mended = torch.zeros_like(x)
        for _ in range(self.pairs):
            noise = torch.randn(x.shape[1:], generator=generator).to(x)
            for sign in (1, -1):
                noisy = known.hold(alpha * x + sign * sigma * noise)
                mended += model.denoise(noisy, levels, condition) / (2 * self.pairs)
        where = model.layout.slices["observations"]
        moved = (mended - x)[..., where]
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
        """Number of the best candidate within the limit; where none is, of the least moved."""
        worth = np.where(np.isnan(scores), 0.0, scores)
        worth = np.where(moves <= self.limit, worth, -np.inf)
        chosen: np.ndarray = np.where(
            (moves <= self.limit).any(axis=1), worth.argmax(axis=1), moves.argmin(axis=1)
        )
        return chosen


def check_plausibility(
    plausibility: Plausibility | None, model: TrajectoryDiffusion
) -> Plausibility | None:
    """Return what was given, if it is a Plausibility that looks at features the model has."""
    if plausibility is None:
        return None
    if not isinstance(plausibility, Plausibility):
        raise PgdiffError(f"`plausibility` must be a Plausibility. Got {plausibility!r}.")
    size = dict(model.layout.fields).get("observations", 0)
    if max(plausibility.features or (0,)) >= size:
        raise PgdiffError(
            f"`plausibility` must look at features of the {size} of an observation. "
            f"Got {list(plausibility.features or ())}."
        )
    return plausibility
