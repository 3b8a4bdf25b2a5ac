"""The interface of a field of a token, and of fields that hold actions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.data.episodes import Episodes
from pgdiff.data.selection import selected


@dataclass(frozen=True, eq=False)
class Windows:
    """The rows of a batch of segments in a recording.

    Attributes:
        rows: row of each token; tokens past the end of their episode have its last row.
        mask: True at real tokens, False at padding.
        past: True at tokens past the end of their episode.
        last: last row of the episode of each segment.
        stride: steps between tokens.
        absorbing: if True, tokens past the end are real and repeat the end.
    """

    rows: Int[np.ndarray, "batch tokens"]
    mask: Bool[np.ndarray, "batch tokens"]
    past: Bool[np.ndarray, "batch tokens"]
    last: Int[np.ndarray, "batch 1"]
    stride: int
    absorbing: bool


Values = Float[np.ndarray, "batch tokens *size"]
Gather = Callable[[Windows], Values]
"""Returns a field of a batch of segments, float32."""


_RESERVED = ("condition", "fields", "further", "hints", "mask", "stride")
"""Attributes of segments and of their batches that are not fields."""


class TokenField(ABC):
    """A field of a token: its values in a recording, and its part in a plan.

    A new field is one class that inherits from this one, has no arguments, and is registered under
    its name: `@register("token_field", "fuel")`. `Tokens(fields=...)` then accepts the name, and
    `Segment.fields` holds the generated values. The class overrides `recorded` and `gather`; other
    members have defaults.

    Attributes:
        name: name of the field.
        infos: names of the `Episodes.infos` that the field is read from. Recordings may hold these
            once the class is registered.
        scalar: if True, a token has one number, and `gather` returns `[batch, tokens]`.
        bounded: if True, the features are those of actions, and samples are limited to the range of
            the recorded actions.
        given_at_start: if True, the field is known with the present observation, and is therefore
            in-painted at the first token of a segment, with 0 for all fields but "observations".
        extends_past_end: if True, segments include tokens past a terminal, which repeat the end.

    Example:
        >>> from pgdiff.core.registry import register
        >>> from pgdiff.data.fields import TokenField
        >>> from pgdiff.data.selection import selected
        >>> @register("token_field", "fuel")
        ... class Fuel(TokenField):
        ...     name, infos, scalar = "fuel", ("fuel",), True
        ...     def recorded(self, episodes, *, stride):
        ...         return selected(episodes, "infos/fuel"), 1
        ...     def gather(self, episodes, *, stride, discount):
        ...         return lambda windows: episodes.infos["fuel"][windows.rows, 0]
    """

    name: ClassVar[str]
    infos: ClassVar[tuple[str, ...]] = ()
    scalar: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    given_at_start: ClassVar[bool] = False
    extends_past_end: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if getattr(cls, "name", None) in _RESERVED:
            raise PgdiffError(
                f"`name` of a token field must not be one of {', '.join(_RESERVED)}. "
                f"Got '{cls.name}'. Choose another name."
            )

    @abstractmethod
    def recorded(
        self, episodes: Episodes, *, stride: int
    ) -> tuple[Shaped[np.ndarray, "rows size"], int]:
        """Return the values that a normaliser is fitted to, and their copies in a token.

        The field has `size * copies` features. Fields with equal values share their statistics.

        Args:
            episodes: the recording; rows of other episodes must not be returned (see `selected`).
            stride: steps between tokens.
        """

    @abstractmethod
    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Gather:
        """Return a function that gathers the field for a batch of segments.

        Args:
            episodes: the recording.
            stride: steps between tokens.
            discount: discount of rewards within a token's stride.
        """

    def needs_successor(self, episodes: Episodes) -> bool:
        """Return whether the field of a row depends on the row after it.

        If True, the last row of a cut-off episode, whose successor is unknown, counts as padding.
        """
        return False

    def check(self, sizes: Mapping[str, int], *, horizon: int, stride: int) -> None:
        """Raise if the field does not fit the other fields of a token.

        Args:
            sizes: number of features of each field of the token, by name.
            horizon: number of tokens.
            stride: steps between tokens.
        """
        if self.scalar and sizes[self.name] != 1:
            raise PgdiffError(
                f"`fields` must give '{self.name}' the size 1. Got {sizes[self.name]}."
            )

    def from_plan(
        self,
        observations: Float[Tensor, "batch tokens observation"],
        actions: Float[Tensor, "batch steps action"] | None,
        stride: int,
    ) -> Float[Tensor, "batch tokens size"] | None:
        """Return the field of plans; None if the plans lack it.

        Args:
            observations: way-points of the plans.
            actions: action of every step of the plans.
            stride: steps between tokens.

        Raises:
            PgdiffError: plans do not store the field.
        """
        raise PgdiffError(
            f"`fields` must not hold '{self.name}' to encode a plan, because plans do not store "
            "it. Plan without `warm_start` and `keep_previous`."
        )


class ActionField(TokenField):
    """A field that holds actions: one at each token, or one for every step.

    Attributes:
        every_step: if True, a token holds `stride` actions, concatenated; else one.
    """

    bounded: ClassVar[bool] = True
    every_step: ClassVar[bool] = False

    def recorded(
        self, episodes: Episodes, *, stride: int
    ) -> tuple[Shaped[np.ndarray, "rows size"], int]:
        """Return the recorded actions and the number of actions in a token."""
        return selected(episodes, "actions"), self.count(stride)

    def count(self, stride: int) -> int:
        """Return the number of actions in a token."""
        return stride if self.every_step else 1

    def check(self, sizes: Mapping[str, int], *, horizon: int, stride: int) -> None:
        """Raise if the features are not a whole number of actions."""
        if sizes[self.name] % self.count(stride):
            raise PgdiffError(
                f"`fields` must give '{self.name}' the size of `stride` actions. Got "
                f"{sizes[self.name]} with a stride of {stride}."
            )

    def steps(self, waypoints: int, stride: int) -> int:
        """Return the number of actions of a segment."""
        return waypoints * self.count(stride)

    def actions(
        self, values: Float[Tensor, "batch tokens size"], stride: int
    ) -> Float[Tensor, "batch steps action"]:
        """Return the actions of a segment in temporal order."""
        return torch.unflatten(values, -1, (self.count(stride), -1)).flatten(1, 2)

    def decisions(
        self, values: Float[Tensor, "batch tokens size"], stride: int
    ) -> Float[Tensor, "batch rows action"]:
        """Return the action at each token, as far as the segment holds it."""
        return values[..., : values.shape[-1] // self.count(stride)]

    def from_plan(
        self,
        observations: Float[Tensor, "batch tokens observation"],
        actions: Float[Tensor, "batch steps action"] | None,
        stride: int,
    ) -> Float[Tensor, "batch tokens size"] | None:
        """Return the actions of plans, those of one token concatenated."""
        return None if actions is None else actions.reshape(*observations.shape[:2], -1)


def actions_from(
    episodes: Episodes, windows: Windows
) -> Float[np.ndarray, "batch tokens stride_action"]:
    """Return the actions of the `stride` steps from each row on, concatenated.

    The last action of an episode is repeated past its end.
    """
    steps = windows.rows[..., None] + np.arange(windows.stride)
    values: np.ndarray = episodes.actions.take(np.minimum(steps, windows.last[..., None]), axis=0)
    return values.reshape(*windows.rows.shape, -1)
