"""What a model is given of a segment: in training by drawn patterns, in planning by values."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdiff.diffusion import Known
from pgdiff.diffusion.patterns import pattern_masks
from pgdiff.trajectory import Layout
from pgdiff.validation import PgdiffError


class KnownPatterns:
    """The patterns of given features that a model is trained with.

    Args:
        names: of the patterns, in the order in which they are drawn from.
        layout: of the tokens.
        position: indices of the features that a goal gives.
        rest: indices of the features that are 0 where a goal is held.
    """

    def __init__(
        self, names: Sequence[str], *, layout: Layout, position: Sequence[int], rest: Sequence[int]
    ) -> None:
        if not names:
            raise PgdiffError("`known` must name at least one pattern. Got none.")
        self.names = tuple(names)
        self.layout = layout
        self.position, self.rest = tuple(position), tuple(rest)
        of_each = [self.masks(name) for name in self.names]
        self.all_masks = torch.cat(of_each)
        self._counts = [len(masks) for masks in of_each]

    @property
    def partial(self) -> bool:
        """Whether some token is known in part."""
        masks = self.all_masks
        return bool((masks.any(dim=-1) & ~masks.all(dim=-1)).any())

    def masks(self, name: str) -> Bool[Tensor, "masks tokens features"]:
        """Masks of what the pattern of that name gives; the latest arrival is the last one."""
        where = self.layout.slices["observations"]
        if name in ("start_goal", "start_arrival"):
            self._check_features(where.stop - where.start)
        # No token is before the first, so that its previous actions are always 0.
        before = self.layout.slices.get("previous_actions", slice(0, 0))
        return pattern_masks(
            name,
            tokens=self.layout.horizon,
            features=self.layout.features,
            observation=[*range(where.start, where.stop), *range(before.start, before.stop)],
            goal=[where.start + index for index in (*self.position, *self.rest)],
        )

    @cached_property
    def _covered(self) -> Bool[Tensor, "masks tokens features"]:
        """Masks that training draws, and those that `fill` makes, of which `given` warns."""
        where = self.layout.slices["observations"]
        features = (*self.position, *self.rest)
        fit = all(0 <= index < where.stop - where.start for index in features)
        goals = fit and len(set(features)) == len(features)
        named = ("start", "start_goal", "start_arrival") if goals else ("start",)
        return torch.cat([self.all_masks, *(self.masks(name) for name in named)])

    def cover(self, given: Bool[Tensor, "#batch tokens features"], *, per_token: bool) -> bool:
        """Return whether each of these masks is one that a model was trained with.

        Args:
            given: mask of what is given, for as many tokens as the layout has or fewer.
            per_token: whether the model was trained with a noise level for each token, so that any
                further token may be given as a whole.
        """
        given = given.cpu()[:, None]
        trained = self._covered[:, : given.shape[2]]
        if per_token:
            whole, needed = given.all(dim=-1, keepdim=True), trained.all(dim=-1, keepdim=True)
            same = ((given & ~whole) == (trained & ~needed)) & (whole | ~needed)
        else:
            same = given == trained
        return bool(same.flatten(2).all(dim=2).any(dim=1).all())

    def _check_features(self, size: int) -> None:
        for key, indices in (("position", self.position), ("rest", self.rest)):
            if not all(0 <= index < size for index in indices):
                raise PgdiffError(
                    f"`{key}` must be indices of the {size} features of an observation. "
                    f"Got {list(indices)}."
                )
        if set(self.position) & set(self.rest):
            raise PgdiffError(
                f"`rest` must be other features than `position`, {list(self.position)}. "
                f"Got {list(self.rest)}."
            )

    def draw(self, count: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
        """Draw a pattern for each segment, then one of its masks; indices into `all_masks`."""
        where = generator.device
        pattern = torch.randint(len(self.names), (count,), generator=generator, device=where)
        counts = torch.tensor(self._counts, device=where)
        if int(counts.max()) == 1:
            return pattern
        share = torch.rand(count, generator=generator, device=where)
        mask = (share * counts[pattern]).long().clamp(max=counts[pattern] - 1)
        return (counts.cumsum(0) - counts)[pattern] + mask

    def fill(
        self,
        observation: Float[Tensor, "batch observation"],
        goal: Float[Tensor, "batch goal"] | None,
        arrival: Int[Tensor, " batch"] | None,
    ) -> tuple[str, Known]:
        """Name of the pattern that these values are of, and the values in raw units.

        Args:
            observation: of the first token.
            goal: position features of the token of arrival, where the `rest` is 0.
            arrival: that token of each segment, from 1 on; the last if None.
        """
        last = self.layout.horizon - 1
        count, device = len(observation), observation.device
        where = self.layout.slices["observations"]
        _check_given("observation", observation, [count, where.stop - where.start])
        raw = observation.new_zeros(count, self.layout.horizon, self.layout.features)
        raw[:, 0, where] = observation
        if goal is None:
            return "start", Known(self.masks("start").to(device), raw)
        _check_given("goal", goal, [count, len(self.position)])
        name = "start_goal" if arrival is None else "start_arrival"
        masks = self.masks(name).to(device)
        tokens = torch.full((count,), last) if arrival is None else arrival
        if tokens.shape != (count,) or not ((tokens >= 1) & (tokens <= last)).all():
            raise PgdiffError(
                f"`arrival` must hold a token in 1 to {last} for each segment. "
                f"Got {tokens.tolist()}."
            )
        tokens = tokens.to(device)
        features = [where.start + index for index in self.position]
        raw[torch.arange(count, device=device)[:, None], tokens[:, None], features] = goal
        return name, Known(masks if arrival is None else masks[tokens - 1], raw)


def _check_given(name: str, value: Tensor, shape: list[int]) -> None:
    if list(value.shape) != shape:
        raise PgdiffError(f"`{name}` must have shape {shape}. Got {list(value.shape)}.")
    if not torch.isfinite(value).all():
        raise PgdiffError(f"`{name}` must be finite. Got NaN or Inf.")


def cut(part: Any, tokens: int) -> Any:
    """What is given of the first tokens, where a shorter segment is asked for."""
    if part is None or part.mask.shape[1] <= tokens:
        return part
    if part.mask[:, tokens:].any():
        raise PgdiffError(
            f"`horizon` must hold all that is given. Got {tokens} tokens, where token "
            f"{int(part.mask.any(dim=-1).any(dim=0).nonzero().amax())} is given too."
        )
    return replace(part, mask=part.mask[:, :tokens], values=part.values[:, :tokens])
