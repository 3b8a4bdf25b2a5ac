"""In-painting patterns: given features of a segment in training and planning."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_in
from pgdiff.data.fields import token_field
from pgdiff.diffusion import Inpainting
from pgdiff.diffusion.inpainting import PATTERNS, pattern_masks
from pgdiff.trajectory import Layout


@register("inpainting", "patterns")
@dataclass(frozen=True, kw_only=True)
class InpaintingPatterns:
    """Patterns of given features, from which training draws one for each segment.

    Attributes:
        patterns: names of the patterns: "none", "start" (the first observation), "start_goal" (also
            the goal features of the last token), "start_arrival" (also the goal features of a
            random token of each segment, for goals with a free arrival time).
        goal_features: indices of an observation's features that a goal fixes. If None, those of the
            recording's Dict observations, or the first two of flat observations.
        zero_at_goal: indices of the features that are 0 at a goal, such as velocities, as in Janner
            et al. (2022) on maze2d.

    Example:
        >>> from pgdiff import InpaintingPatterns
        >>> InpaintingPatterns(patterns=("start_goal",), zero_at_goal=(2, 3)).goals
        True
    """

    patterns: Sequence[str] = ("start",)
    goal_features: Sequence[int] | None = None
    zero_at_goal: Sequence[int] = ()

    def __post_init__(self) -> None:
        if isinstance(self.patterns, str) or not self.patterns:
            raise PgdiffError(
                "`patterns` must be a list of at least one pattern, such as ['start']. "
                f"Got {self.patterns!r}."
            )
        for name in self.patterns:
            check_in("patterns", name, PATTERNS)
        object.__setattr__(self, "patterns", tuple(self.patterns))
        if self.goal_features is not None:
            object.__setattr__(self, "goal_features", tuple(self.goal_features))
        object.__setattr__(self, "zero_at_goal", tuple(self.zero_at_goal))

    @property
    def goals(self) -> bool:
        """True if a pattern has a goal."""
        return bool({"start_goal", "start_arrival"} & set(self.patterns))


class PatternMasks:
    """The masks of in-painting patterns for the tokens of a layout.

    Args:
        names: names of the patterns; their order determines the random draws.
        layout: fields and number of the tokens.
        goal_features: indices of an observation's features that a goal fixes.
        zero_at_goal: indices of the features that are 0 at a goal.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        layout: Layout,
        goal_features: Sequence[int],
        zero_at_goal: Sequence[int],
    ) -> None:
        self.names = tuple(names)
        self.layout = layout
        self.goal_features, self.zero_at_goal = tuple(goal_features), tuple(zero_at_goal)
        of_each = [self.masks(name) for name in self.names]
        self.all_masks = torch.cat(of_each)
        self._counts = [len(masks) for masks in of_each]

    @property
    def partial(self) -> bool:
        """True if a pattern gives some, but not all, features of a token."""
        masks = self.all_masks
        return bool((masks.any(dim=-1) & ~masks.all(dim=-1)).any())

    def masks(self, name: str) -> Bool[Tensor, "masks tokens features"]:
        """Return the masks of a pattern, with the latest arrival last."""
        where = self.layout.slices["observations"]
        if name in ("start_goal", "start_arrival"):
            self._check_features(where.stop - where.start)
        slices = self.layout.slices
        at_start = [slices[part] for part in slices if token_field(part).given_at_start]
        return pattern_masks(
            name,
            tokens=self.layout.horizon,
            features=self.layout.features,
            observation=[i for part in at_start for i in range(part.start, part.stop)],
            goal=[where.start + index for index in (*self.goal_features, *self.zero_at_goal)],
        )

    @cached_property
    def _covered(self) -> Bool[Tensor, "masks tokens features"]:
        """Masks that training draws, and masks of `fill`, which has a separate warning."""
        where = self.layout.slices["observations"]
        features = (*self.goal_features, *self.zero_at_goal)
        fit = all(0 <= index < where.stop - where.start for index in features)
        goals = fit and len(set(features)) == len(features)
        named = ("start", "start_goal", "start_arrival") if goals else ("start",)
        return torch.cat([self.all_masks, *(self.masks(name) for name in named)])

    def cover(self, given: Bool[Tensor, "#batch tokens features"], *, per_token: bool) -> bool:
        """Return whether a model was trained with each of these masks.

        Args:
            given: mask of given features, for the layout's number of tokens or fewer.
            per_token: whether the model was trained with a noise level for each token, so that any
                further token may be given as a whole.
        """
        given = given.cpu()[:, None]
        trained = self._covered[:, : given.shape[2]]
        if per_token:
            whole, needed = given.all(dim=-1, keepdim=True), trained.all(dim=-1, keepdim=True)
            equal = ((given & ~whole) == (trained & ~needed)) & (whole | ~needed)
        else:
            equal = given == trained
        return bool(equal.flatten(2).all(dim=2).any(dim=1).all())

    def _check_features(self, size: int) -> None:
        for key, indices in (
            ("goal_features", self.goal_features),
            ("zero_at_goal", self.zero_at_goal),
        ):
            if not all(0 <= index < size for index in indices):
                raise PgdiffError(
                    f"`{key}` must be indices of the {size} features of an observation. "
                    f"Got {list(indices)}."
                )
        if set(self.goal_features) & set(self.zero_at_goal):
            raise PgdiffError(
                f"`zero_at_goal` must not share features with `goal_features`, "
                f"{list(self.goal_features)}. Got {list(self.zero_at_goal)}."
            )

    def draw(self, count: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
        """Return indices into `all_masks`: a random pattern for each segment, then a mask of it."""
        device = generator.device
        pattern = torch.randint(len(self.names), (count,), generator=generator, device=device)
        counts = torch.tensor(self._counts, device=device)
        if int(counts.max()) == 1:
            return pattern
        share = torch.rand(count, generator=generator, device=device)
        mask = (share * counts[pattern]).long().clamp(max=counts[pattern] - 1)
        return (counts.cumsum(0) - counts)[pattern] + mask

    def fill(
        self,
        observation: Float[Tensor, "batch observation"],
        goal: Float[Tensor, "batch goal"] | None,
        arrival: Int[Tensor, " batch"] | None,
    ) -> tuple[str, Inpainting]:
        """Return the name of the pattern with these values, and the given features in raw units.

        Args:
            observation: observation at the first token.
            goal: goal features at the token of arrival; None without a goal.
            arrival: token of arrival of each segment, from 1 on; the last if None.
        """
        last = self.layout.horizon - 1
        count, device = len(observation), observation.device
        where = self.layout.slices["observations"]
        _check_given("observation", observation, [count, where.stop - where.start])
        raw = observation.new_zeros(count, self.layout.horizon, self.layout.features)
        raw[:, 0, where] = observation
        if goal is None:
            return "start", Inpainting(self.masks("start").to(device), raw)
        _check_given("goal", goal, [count, len(self.goal_features)])
        name = "start_goal" if arrival is None else "start_arrival"
        masks = self.masks(name).to(device)
        tokens = torch.full((count,), last) if arrival is None else arrival
        if tokens.shape != (count,) or not ((tokens >= 1) & (tokens <= last)).all():
            raise PgdiffError(
                f"`arrival` must hold a token in 1 to {last} for each segment. "
                f"Got {tokens.tolist()}."
            )
        tokens = tokens.to(device)
        features = [where.start + index for index in self.goal_features]
        raw[torch.arange(count, device=device)[:, None], tokens[:, None], features] = goal
        return name, Inpainting(masks if arrival is None else masks[tokens - 1], raw)


def _check_given(name: str, value: Tensor, shape: list[int]) -> None:
    if list(value.shape) != shape:
        raise PgdiffError(f"`{name}` must have shape {shape}. Got {list(value.shape)}.")
    if not torch.isfinite(value).all():
        raise PgdiffError(f"`{name}` must be finite. Got NaN or Inf.")


def cut(part: Any, tokens: int) -> Any:
    """Return the given or measured features of a segment of at most `tokens` tokens."""
    if part is None or part.mask.shape[1] <= tokens:
        return part
    if part.mask[:, tokens:].any():
        raise PgdiffError(
            f"`horizon` must include all given tokens. Got {tokens} tokens, but token "
            f"{int(part.mask.any(dim=-1).any(dim=0).nonzero().amax())} is given too."
        )
    return replace(part, mask=part.mask[:, :tokens], values=part.values[:, :tokens])
