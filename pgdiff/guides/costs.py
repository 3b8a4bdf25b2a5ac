"""Costs of positions in forbidden regions, of speed, and of actions out of bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range
from pgdiff.trajectory import Segment, SegmentSpec

Point = Float[Tensor, "*batch dimensions"]
Lines = tuple[Float[Tensor, "batch lines dimensions"], Float[Tensor, "batch lines dimensions"]]


@register("cost", "disc")
@dataclass(frozen=True)
class Disc:
    """Squared depth of a plan within a disc, or a ball for positions of more features.

    The depth of a point is `max(radius + margin - distance from the center, 0)` in raw units, the
    depth of a line is the depth of its deepest point.

    Attributes:
        center: position of the center, in raw units.
        radius: radius in raw units, above 0.
        margin: additional distance in raw units, at least 0.
        position: indices of the position's features in an observation.
        path: whether the straight lines between neighbouring way-points count, or only the
            way-points, which may be several environment steps apart.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> from pgdiff.guides import Disc
        >>> segment = Segment(observations=torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]]))
        >>> Disc(center=(0.0, 0.5), radius=1.0)(segment).tolist()
        [[0.25]]
    """

    center: Sequence[float]
    radius: float
    margin: float = 0.0
    position: Sequence[int] = (0, 1)
    path: bool = True

    def __post_init__(self) -> None:
        _set(self, "center", _numbers("center", self.center))
        _set(self, "position", _indices("position", self.position, like=self.center))
        check_range("radius", self.radius, low=0.0, open_low=True)
        check_range("margin", self.margin, low=0.0)

    def __call__(self, segment: Segment) -> Float[Tensor, "batch parts"]:
        """Return the squared depth of each line, or of each way-point."""
        start, end = lines(segment.observations[..., list(self.position)], path=self.path)
        center = start.new_tensor(self.center)
        # The derivative of the depth with respect to the position of the deepest point is 0.
        with torch.no_grad():
            along = end - start
            squared = along.square().sum(dim=-1, keepdim=True)
            share = ((center - start) * along).sum(dim=-1, keepdim=True)
            share = (share / torch.where(squared > 0, squared, 1.0)).clamp(0.0, 1.0)
        distance = length(start + share * (end - start) - center)
        depth: Tensor = (self.radius + self.margin - distance).clamp(min=0.0)
        return depth.square()

    def check(self, spec: SegmentSpec) -> None:
        """Raise if observations do not have the position's features."""
        check_indices("position", self.position, spec)

    def inside(self, positions: Any) -> Bool[Tensor, "*batch"]:
        """Return whether positions `[..., dimensions]` are within the disc, without its margin."""
        points = _points(positions, len(self.center))
        return length(points - points.new_tensor(self.center)) < self.radius


@register("cost", "box")
@dataclass(frozen=True)
class Box:
    """Squared depth of a plan within a box.

    The depth of a point is its distance in raw units from the nearest face of the box, extended by
    the margin, and 0 outside. The depth of a line is the depth of its deepest point.

    Attributes:
        low: smallest value of each feature of the position.
        high: largest value of each feature of the position.
        margin: additional distance in raw units, at least 0.
        position: indices of the position's features in an observation.
        path: whether the straight lines between neighbouring way-points count; see `Disc`.

    Example:
        >>> import torch
        >>> from pgdiff.guides import Box
        >>> Box(low=(0.0, 0.0), high=(1.0, 1.0)).inside([[0.5, 0.5], [2.0, 0.5]]).tolist()
        [True, False]
    """

    low: Sequence[float]
    high: Sequence[float]
    margin: float = 0.0
    position: Sequence[int] = (0, 1)
    path: bool = True

    def __post_init__(self) -> None:
        low, high = _numbers("low", self.low), _numbers("high", self.high)
        if len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=True)):
            raise PgdiffError(
                f"`low` must be below `high` in every feature. Got {list(low)} and {list(high)}."
            )
        _set(self, "low", low)
        _set(self, "high", high)
        _set(self, "position", _indices("position", self.position, like=low))
        check_range("margin", self.margin, low=0.0)

    def __call__(self, segment: Segment) -> Float[Tensor, "batch parts"]:
        """Return the squared depth of each line, or of each way-point."""
        ends = lines(segment.observations[..., list(self.position)], path=self.path)
        start, end = (self._depths(point) for point in ends)
        return _deepest(start, end).clamp(min=0.0).square()

    def check(self, spec: SegmentSpec) -> None:
        """Raise if observations do not have the position's features."""
        check_indices("position", self.position, spec)

    def inside(self, positions: Any) -> Bool[Tensor, "*batch"]:
        """Return whether positions `[..., dimensions]` are within the box, without its margin."""
        points = _points(positions, len(self.low))
        low, high = points.new_tensor(self.low), points.new_tensor(self.high)
        return ((points > low) & (points < high)).all(dim=-1)

    def _depths(self, point: Point) -> Float[Tensor, "*batch faces"]:
        """Return the distance from each face, positive on the inner side."""
        low, high = point.new_tensor(self.low), point.new_tensor(self.high)
        return torch.cat([point - low, high - point], dim=-1) + self.margin


def lines(position: Float[Tensor, "batch tokens dimensions"], *, path: bool) -> Lines:
    """Return starts and ends of the lines between way-points, or the points if not `path`."""
    if path and position.shape[1] > 1:
        return position[:, :-1], position[:, 1:]
    return position, position


def length(vector: Point) -> Float[Tensor, "*batch"]:
    """Return the Euclidean norm, with gradient 0 at 0."""
    squared = vector.square().sum(dim=-1)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


def check_indices(name: str, indices: Sequence[int], spec: SegmentSpec) -> None:
    """Raise if observations do not have the features of these indices."""
    size = spec.observation_size
    if max(indices) >= size:
        raise PgdiffError(
            f"`{name}` must be indices of the {size} features of the model's observations. "
            f"Got {list(indices)}."
        )


def _deepest(
    start: Float[Tensor, "batch lines faces"], end: Float[Tensor, "batch lines faces"]
) -> Float[Tensor, "batch lines"]:
    """Return the largest value along each line of the smallest distance from a face.

    Every distance is linear along the line, so that their minimum is concave: its maximum is at an
    end or where two distances are equal.
    """
    slope = end - start
    shares = [torch.zeros_like(start[..., 0]), torch.ones_like(start[..., 0])]
    for one, two in combinations(range(start.shape[-1]), 2):
        steeper = slope[..., one] - slope[..., two]
        crossing = start[..., two] - start[..., one]
        crossing = crossing / torch.where(steeper == 0, 1.0, steeper)
        shares.append(torch.where(steeper == 0, 0.0, crossing).clamp(0.0, 1.0))
    share = torch.stack(shares, dim=-1)[..., None]
    depth = start[..., None, :] + share * slope[..., None, :]
    return depth.amin(dim=-1).amax(dim=-1)


def _points(positions: Any, dimensions: int) -> Tensor:
    points = torch.as_tensor(positions)
    if points.ndim == 0 or points.shape[-1] != dimensions:
        raise PgdiffError(
            f"`positions` must have shape [..., {dimensions}]. Got {list(points.shape)}."
        )
    return points if points.is_floating_point() else points.double()


def _numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) == 0:
        raise PgdiffError(f"`{name}` must be numbers, one for each feature. Got {values!r}.")
    return tuple(check_range(name, value) for value in values)


def _indices(name: str, values: Sequence[int], *, like: Sequence[float]) -> tuple[int, ...]:
    if len(values) != len(like):
        raise PgdiffError(
            f"`{name}` must be {len(like)} indices, one for each feature of the region. "
            f"Got {list(values)}."
        )
    return tuple(check_positive_int(name, index, minimum=0) for index in values)


def _set(obj: object, name: str, value: object) -> None:
    object.__setattr__(obj, name, value)


@register("cost", "speed_limit")
@dataclass(frozen=True)
class SpeedLimit:
    """Squared excess of the speed at each token over a limit.

    Attributes:
        limit: largest norm of the velocity, in raw units, at least 0.
        velocity: indices of the velocity's features in an observation.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> from pgdiff.guides import SpeedLimit
        >>> SpeedLimit(1.0)(Segment(observations=torch.full((1, 1, 4), 3.0) * 0.5)).shape
        torch.Size([1, 1])
    """

    limit: float
    velocity: Sequence[int] = (2, 3)

    def __post_init__(self) -> None:
        check_range("limit", self.limit, low=0.0)
        if len(self.velocity) == 0:
            raise PgdiffError("`velocity` must name at least one feature. Got none.")
        indices = tuple(check_positive_int("velocity", i, minimum=0) for i in self.velocity)
        object.__setattr__(self, "velocity", indices)

    def __call__(self, segment: Segment) -> Float[Tensor, "batch tokens"]:
        """Return the squared excess at each token."""
        speed = length(segment.observations[..., list(self.velocity)])
        return (speed - self.limit).clamp(min=0.0).square()

    def check(self, spec: SegmentSpec) -> None:
        """Raise if observations do not have the velocity's features."""
        check_indices("velocity", self.velocity, spec)


@register("cost", "action_limit")
@dataclass(frozen=True)
class ActionLimit:
    """Squared excess of actions over their bounds, summed over their features.

    Every action of an action chunk counts.

    Attributes:
        low: smallest value in raw units; one for all features of an action, or one for each.
        high: largest value in raw units; one for all features of an action, or one for each.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> from pgdiff.guides import ActionLimit
        >>> segment = Segment(observations=torch.zeros(1, 1, 4), actions=torch.full((1, 1, 2), 2.0))
        >>> ActionLimit(low=-1.0, high=1.0)(segment).tolist()
        [[2.0]]
    """

    low: float | Sequence[float]
    high: float | Sequence[float]

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            values = np.atleast_1d(np.asarray(getattr(self, name), dtype=object)).ravel()
            object.__setattr__(self, name, tuple(check_range(name, value) for value in values))
        low, high = np.array(self.low), np.array(self.high)
        if (1 not in (len(low), len(high)) and len(low) != len(high)) or not (low < high).all():
            raise PgdiffError(
                "`low` must be below `high` in every feature of an action. "
                f"Got {low.tolist()} and {high.tolist()}."
            )

    def __call__(self, segment: Segment) -> Float[Tensor, "batch tokens"]:
        """Return the squared excess of the action, or of the chunk's actions, at each token."""
        actions = segment.actions
        chunks = segment.action_chunks
        chunks = segment.previous_actions if chunks is None else chunks
        if actions is None and chunks is not None:
            actions = torch.unflatten(chunks, -1, (segment.stride, -1))
        if actions is None:
            raise PgdiffError("`segment` must have actions for an ActionLimit. Got none.")
        low, high = actions.new_tensor(self.low), actions.new_tensor(self.high)
        excess = (low - actions).clamp(min=0.0).square() + (actions - high).clamp(min=0.0).square()
        return excess.flatten(2).sum(dim=-1)

    def check(self, spec: SegmentSpec) -> None:
        """Raise if segments have no actions, or actions of another size."""
        size = spec.action_size
        if size is None:
            raise PgdiffError(
                "`fields` of the model must hold 'actions' or chunks of them for 'ActionLimit'. "
                f"Got {', '.join(spec.sizes)}."
            )
        for name in ("low", "high"):
            count = len(getattr(self, name))
            if count not in (1, size):
                raise PgdiffError(
                    f"`{name}` must be one number, or {size}, one for each feature of the model's "
                    f"actions. Got {count}."
                )
