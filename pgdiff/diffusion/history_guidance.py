"""History guidance: estimates under several views of the history, added up.

Song et al. (2025), "History-Guided Video Diffusion" (arXiv:2502.06764), section 5. A model
trained with a noise level for each token needs no token for "absent": a history at level 1 is
hidden, one in between is half seen. What it gives under one view less what it gives without history
is what that view adds:

    x0_hat = x0_hat(hidden) + sum over views of weight * (x0_hat(view) - x0_hat(hidden))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.validation import PgdiffError, check_positive_int, check_range

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Denoise = Callable[[Signal, Level], Signal]


@dataclass(frozen=True, kw_only=True)
class HistoryView:
    """A history as a model is shown it, and how much that counts.

    Attributes:
        weight: of what it adds to the estimate without history.
        level: noise level of its tokens, from 0, seen, to 1, hidden.
        last: of so many tokens, the latest ones; the others are hidden. All if None.
    """

    weight: float = 1.0
    level: float = 0.0
    last: int | None = None

    def __post_init__(self) -> None:
        check_range("weight", self.weight)
        check_range("level", self.level, low=0.0, high=1.0)
        if self.last is not None:
            check_positive_int("last", self.last)

    def levels(self, tokens: int) -> tuple[float, ...]:
        """Level of each of so many tokens of history."""
        seen = tokens if self.last is None else min(self.last, tokens)
        return (1.0,) * (tokens - seen) + (float(self.level),) * seen


@dataclass(frozen=True, kw_only=True)
class HistoryGuidance:
    """Views of the history, and their weights.

    `conditional`, `vanilla`, `fractional` and `temporal` make those of the paper. Views that are
    the same are merged, those of weight 0 are left out, and the rest are estimated in one call.

    Attributes:
        views: at least one.
    """

    views: tuple[HistoryView, ...]

    def __post_init__(self) -> None:
        views = tuple(self.views) if isinstance(self.views, Sequence) else (self.views,)
        if not views or not all(isinstance(view, HistoryView) for view in views):
            raise PgdiffError(f"`views` must be one HistoryView or more. Got {self.views!r}.")
        object.__setattr__(self, "views", views)

    @classmethod
    def conditional(cls) -> "HistoryGuidance":
        """The history as it is: what sampling does without guidance."""
        return cls(views=(HistoryView(),))

    @classmethod
    def vanilla(cls, weight: float) -> "HistoryGuidance":
        """Classifier-free guidance in which the history is the condition."""
        return cls(views=(HistoryView(weight=weight),))

    @classmethod
    def fractional(cls, weight: float, *, level: float) -> "HistoryGuidance":
        """The history as it is, and `weight - 1` times what it adds when half seen.

        A history at some level has lost its details and kept its course: motion is guided, and the
        rest less overdone.
        """
        rest = check_range("weight", weight) - 1
        return cls(views=(HistoryView(), HistoryView(weight=rest, level=level)))

    @classmethod
    def temporal(cls, weights: Mapping[int, float]) -> "HistoryGuidance":
        """What the latest so many tokens add, each number with its weight."""
        if not isinstance(weights, Mapping):
            raise PgdiffError(f"`weights` must map numbers of tokens to weights. Got {weights!r}.")
        return cls(views=tuple(HistoryView(weight=w, last=n) for n, w in weights.items()))

    def weights(self, tokens: int) -> dict[tuple[float, ...], float]:
        """Weight of each way of showing so many tokens, by their levels; they add up to 1."""
        hidden = (1.0,) * tokens
        found = {hidden: 1.0 - sum(view.weight for view in self.views)}
        for view in self.views:
            levels = view.levels(tokens)
            found[levels] = found.get(levels, 0.0) + view.weight
        # A sum of weights is rounded: what is left of 1 - 0.7 - 0.3 is no view.
        return {levels: weight for levels, weight in found.items() if abs(weight) > 1e-12}

    def estimate(
        self,
        denoise: Denoise,
        x: Signal,
        level: Level,
        *,
        schedule: NoiseSchedule,
        noise: Float[Tensor, "trajectories history features"],
    ) -> Signal:
        """Guided clean estimate x0_hat.

        Args:
            denoise: clean estimate of noisy tokens; called with all views at once.
            x: noisy tokens, the history first, which is clean.
            level: of the tokens.
            schedule: signal and noise at a level.
            noise: standard normal, of the tokens of history; where there are more rows of `x`, each
                trajectory again and again, as futures are, it is theirs as often.
        """
        noise = noise.repeat(len(x) // len(noise), 1, 1)
        tokens = noise.shape[1]
        weights = self.weights(tokens)
        count = len(weights)
        told = torch.tensor(list(weights), dtype=level.dtype, device=level.device)
        alpha, sigma = factors(schedule, told)
        past = alpha[:, None] * x[:, :tokens] + sigma[:, None] * noise
        after = x[:, tokens:].expand(count, -1, -1, -1)
        shown = torch.cat([past, after], dim=2).reshape(-1, *x.shape[1:])
        rows = level[:, tokens:].expand(len(x), -1).repeat(count, 1)
        levels = torch.cat([told.repeat_interleave(len(x), dim=0), rows], dim=1)
        x0_hats = denoise(shown, levels).reshape(count, *x.shape)
        share = torch.tensor(list(weights.values()), dtype=x.dtype, device=x.device)
        x0_hat = (share[:, None, None, None] * x0_hats).sum(dim=0)
        return torch.cat([x[:, :tokens], x0_hat[:, tokens:]], dim=1)
