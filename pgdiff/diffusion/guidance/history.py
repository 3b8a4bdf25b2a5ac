"""History guidance: a weighted sum of estimates under several views of the history.

Song et al. (2025), "History-Guided Video Diffusion" (arXiv:2502.06764), section 5. A model trained
with a noise level for each token needs no mask token for an absent history: at level 1 the history
is hidden, at levels between 0 and 1 it is partly visible. The guided estimate is

    x0_hat = x0_hat(hidden) + sum over views of weight * (x0_hat(view) - x0_hat(hidden))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range
from pgdiff.diffusion.schedules import NoiseSchedule, factors

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]
Denoise = Callable[[Signal, Level], Signal]


@register("history_view", "view")
@dataclass(frozen=True, kw_only=True)
class HistoryView:
    """A view of the history at some noise level, and its weight.

    Attributes:
        weight: weight of the view's difference from the estimate without history.
        level: noise level of the history, from 0, visible, to 1, hidden.
        last: number of visible tokens, the latest ones; the others are hidden. All are visible if
            None.

    Example:
        >>> from pgdiff.diffusion import HistoryView
        >>> HistoryView(level=0.25, last=2).levels(3)
        (1.0, 0.25, 0.25)
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
        """Return the level of each token of a history of `tokens` tokens."""
        visible = tokens if self.last is None else min(self.last, tokens)
        return (1.0,) * (tokens - visible) + (float(self.level),) * visible


@register("history", "views")
@dataclass(frozen=True, kw_only=True)
class HistoryGuidance:
    """Views of the history, and their weights.

    `conditional`, `vanilla`, `fractional` and `temporal` create the paper's variants. Equal views
    are merged, views of weight 0 are left out, and the rest are estimated in one call.

    Attributes:
        views: one view or more.

    Example:
        >>> from pgdiff.diffusion import HistoryGuidance
        >>> HistoryGuidance.vanilla(1.5).weights(2)
        {(1.0, 1.0): -0.5, (0.0, 0.0): 1.5}
    """

    views: tuple[HistoryView, ...]

    def __post_init__(self) -> None:
        views = tuple(self.views) if isinstance(self.views, Sequence) else (self.views,)
        if not views or not all(isinstance(view, HistoryView) for view in views):
            raise PgdiffError(f"`views` must be one HistoryView or more. Got {self.views!r}.")
        object.__setattr__(self, "views", views)

    @classmethod
    def conditional(cls) -> "HistoryGuidance":
        """Return the clean history with weight 1, as in sampling without history guidance."""
        return cls(views=(HistoryView(),))

    @classmethod
    def vanilla(cls, weight: float) -> "HistoryGuidance":
        """Return classifier-free guidance with the history as the condition."""
        return cls(views=(HistoryView(weight=weight),))

    @classmethod
    def fractional(cls, weight: float, *, level: float) -> "HistoryGuidance":
        """Return the clean history, and a noisy view of it with weight `weight - 1`.

        A noisy history has lost its details but not its course, so that guidance emphasises motion
        and exaggerates details less.
        """
        rest = check_range("weight", weight) - 1
        return cls(views=(HistoryView(), HistoryView(weight=rest, level=level)))

    @classmethod
    def temporal(cls, weights: Mapping[int, float]) -> "HistoryGuidance":
        """Return views of the latest tokens; `weights` maps numbers of tokens to weights."""
        if not isinstance(weights, Mapping):
            raise PgdiffError(f"`weights` must map numbers of tokens to weights. Got {weights!r}.")
        return cls(views=tuple(HistoryView(weight=w, last=n) for n, w in weights.items()))

    def weights(self, tokens: int) -> dict[tuple[float, ...], float]:
        """Return the weight of each view by the levels of the tokens; the weights add up to 1."""
        hidden = (1.0,) * tokens
        total = {hidden: 1.0 - sum(view.weight for view in self.views)}
        for view in self.views:
            levels = view.levels(tokens)
            total[levels] = total.get(levels, 0.0) + view.weight
        # Drop weights that are only rounding errors, such as 1 - 0.7 - 0.3.
        return {levels: weight for levels, weight in total.items() if abs(weight) > 1e-12}

    def estimate(
        self,
        denoise: Denoise,
        x: Signal,
        level: Level,
        *,
        noise_schedule: NoiseSchedule,
        noise: Float[Tensor, "trajectories history features"],
    ) -> Signal:
        """Return the guided clean estimate x0_hat.

        Args:
            denoise: clean estimate of noisy tokens; called once with all views.
            x: noisy tokens, after the clean tokens of the history.
            level: levels of the tokens.
            noise_schedule: signal and noise at a level.
            noise: standard normal noise of the tokens of history. It is repeated if `x` holds each
                trajectory several times, as with futures.
        """
        noise = noise.repeat(len(x) // len(noise), 1, 1)
        tokens = noise.shape[1]
        weights = self.weights(tokens)
        count = len(weights)
        view_levels = torch.tensor(list(weights), dtype=level.dtype, device=level.device)
        alpha, sigma = factors(noise_schedule, view_levels)
        past = alpha[:, None] * x[:, :tokens] + sigma[:, None] * noise
        after = x[:, tokens:].expand(count, -1, -1, -1)
        shown = torch.cat([past, after], dim=2).reshape(-1, *x.shape[1:])
        rows = level[:, tokens:].expand(len(x), -1).repeat(count, 1)
        levels = torch.cat([view_levels.repeat_interleave(len(x), dim=0), rows], dim=1)
        x0_hats = denoise(shown, levels).reshape(count, *x.shape)
        share = torch.tensor(list(weights.values()), dtype=x.dtype, device=x.device)
        x0_hat = (share[:, None, None, None] * x0_hats).sum(dim=0)
        return torch.cat([x[:, :tokens], x0_hat[:, tokens:]], dim=1)
