"""The layout of tokens, and segments, conditions and plans in raw units."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int
from pgdiff.data.fields import ActionField, token_field


@register("layout", "tokens")
@dataclass(frozen=True, kw_only=True)
class Layout:
    """The fields of the D features of each of T tokens.

    Attributes:
        fields: name and size of each field in the order of a token's features, for example
            `(("observations", 4),)`; see `pgdiff.data.fields`.
        horizon: number of tokens T of a segment.
        stride: environment steps between neighbouring tokens.

    Example:
        >>> from pgdiff import Layout
        >>> layout = Layout(fields=(("observations", 4), ("actions", 2)), horizon=8)
        >>> layout.features, layout.slices["actions"]
        (6, slice(4, 6, None))
    """

    fields: tuple[tuple[str, int], ...]
    horizon: int
    stride: int = 1

    def __post_init__(self) -> None:
        for name, size in self.fields:
            token_field(name)
            check_positive_int(f"size of field '{name}'", size)
        names = [name for name, _ in self.fields]
        if "observations" not in names or len(set(names)) < len(names):
            raise PgdiffError(
                "`fields` must hold 'observations', and no field twice. Got "
                f"{', '.join(names) or 'none'}."
            )
        check_positive_int("horizon", self.horizon)
        check_positive_int("stride", self.stride)
        sizes = dict(self.fields)
        for name in names:
            token_field(name).check(sizes, horizon=self.horizon, stride=self.stride)
        # A layout that is read from JSON, which has only lists, must equal the saved layout.
        object.__setattr__(self, "fields", tuple((name, int(size)) for name, size in self.fields))

    @property
    def features(self) -> int:
        """Number of features D of a token."""
        return sum(size for _, size in self.fields)

    @property
    def slices(self) -> Mapping[str, slice]:
        """Slice of each field in a token's features."""
        ends = list(accumulate(size for _, size in self.fields))
        return {
            name: slice(end - size, end)
            for (name, size), end in zip(self.fields, ends, strict=True)
        }

    @property
    def action_size(self) -> int | None:
        """Number of features of one action; None for tokens without actions."""
        return self.spec.action_size

    @property
    def spec(self) -> "SegmentSpec":
        """Fields, sizes and way-points of the segments that `segment` returns."""
        return SegmentSpec(sizes=dict(self.fields), waypoints=self.horizon, stride=self.stride)

    def segment(self, x: Float[Tensor, "batch tokens features"]) -> "Segment":
        """Return `x`, in raw units, as named fields."""
        parts: dict[str, Any] = {name: x[..., where] for name, where in self.slices.items()}
        return Segment(stride=self.stride, **parts)


@dataclass(frozen=True, kw_only=True)
class SegmentSpec:
    """The fields of a decoded segment, their sizes, and its way-points.

    Attributes:
        sizes: number of features of each field of `Segment`, by name.
        waypoints: tokens of the segment.
        stride: environment steps between neighbouring way-points.

    Example:
        >>> from pgdiff.trajectory import SegmentSpec
        >>> spec = SegmentSpec(sizes={"observations": 4, "actions": 2}, waypoints=8, stride=3)
        >>> spec.observation_size, spec.action_size, spec.action_stride
        (4, 2, 3)
    """

    sizes: Mapping[str, int]
    waypoints: int
    stride: int

    @property
    def observation_size(self) -> int:
        """Number of features of an observation."""
        return self.sizes["observations"]

    @property
    def action_size(self) -> int | None:
        """Number of features of one action; None for segments without actions."""
        field = _action_field(self.sizes)
        return None if field is None else self.sizes[field.name] // field.count(self.stride)

    @property
    def action_stride(self) -> int:
        """Environment steps between neighbouring actions of `Segment.every_action`."""
        field = _action_field(self.sizes)
        return 1 if field is None or field.every_step else self.stride

    @property
    def action_shape(self) -> tuple[int, int] | None:
        """Shape `(steps, action)` of `Segment.every_action`; None for segments without actions."""
        field, size = _action_field(self.sizes), self.action_size
        if field is None or size is None:
            return None
        return field.steps(self.waypoints, self.stride), size


def _action_field(names: Iterable[str], *, every_step: bool = True) -> ActionField | None:
    """Return the field with the actions of a segment; None if there are none.

    Args:
        names: names of the segment's fields.
        every_step: whether to prefer a field with the actions of every step.
    """
    fields = [field for field in map(token_field, names) if isinstance(field, ActionField)]
    return min(fields, key=lambda field: field.every_step != every_step, default=None)


@dataclass(frozen=True, init=False, eq=False)
class Segment:
    """A batch of trajectory segments in raw units, differentiable; the input of guides.

    Args:
        observations: `[batch, tokens, observation]`, the state at every `stride`-th step.
        stride: environment steps between neighbouring tokens.
        condition: raw values that the plans are conditioned on, `[batch or 1, ...]` each, by name;
            a batch of 1 applies to all segments.
        fields: further fields by name, `[batch, tokens, size]` each, such as `actions`, `rewards`
            or a field of an own class (`pgdiff.data.fields`). Fields that are None are left out.

    Attributes:
        fields: the fields by name. Those of pgdiff are attributes too, None if absent.
        stride: environment steps between neighbouring tokens.
        condition: raw values of the conditions by name; empty without conditions.

    Example:
        >>> import torch
        >>> from pgdiff import Segment
        >>> chunks = torch.arange(8.0).reshape(1, 2, 4)
        >>> segment = Segment(observations=torch.zeros(1, 2, 3), action_chunks=chunks, stride=2)
        >>> segment.every_action.shape, sorted(segment.fields)
        (torch.Size([1, 4, 2]), ['action_chunks', 'observations'])
    """

    fields: Mapping[str, Tensor]
    stride: int
    condition: Mapping[str, Tensor]

    def __init__(
        self,
        *,
        observations: Float[Tensor, "batch tokens observation"],
        stride: int = 1,
        condition: Mapping[str, Tensor] | None = None,
        **fields: Float[Tensor, "batch tokens _"] | None,
    ) -> None:
        for name in fields:
            token_field(name)
        given = {name: value for name, value in fields.items() if value is not None}
        object.__setattr__(self, "fields", {"observations": observations, **given})
        object.__setattr__(self, "stride", stride)
        object.__setattr__(self, "condition", {} if condition is None else dict(condition))

    def replace(self, **changes: Any) -> "Segment":
        """Return a segment with other fields, stride or condition; None removes a field.

        Example:
            >>> import torch
            >>> from pgdiff import Segment
            >>> segment = Segment(observations=torch.zeros(1, 2, 3))
            >>> segment.replace(condition={"goal": torch.zeros(1, 2)}).goal.shape
            torch.Size([1, 2])
        """
        parts = {"stride": self.stride, "condition": self.condition, **self.fields}
        return Segment(**{**parts, **changes})

    @property
    def observations(self) -> Float[Tensor, "batch tokens observation"]:
        """State at every `stride`-th step."""
        return self.fields["observations"]

    @property
    def actions(self) -> Float[Tensor, "batch tokens action"] | None:
        """Action at each token."""
        return self.fields.get("actions")

    @property
    def action_chunks(self) -> Float[Tensor, "batch tokens chunk"] | None:
        """Actions of the `stride` steps from each token on, concatenated."""
        return self.fields.get("action_chunks")

    @property
    def previous_actions(self) -> Float[Tensor, "batch tokens chunk"] | None:
        """Actions of the `stride` steps before each token, concatenated; 0 at the first token.

        See Chen et al. (2024), section 4.2.
        """
        return self.fields.get("previous_actions")

    @property
    def rewards(self) -> Float[Tensor, "batch tokens 1"] | None:
        """Sum of the rewards up to the next token."""
        return self.fields.get("rewards")

    @property
    def terminals(self) -> Float[Tensor, "batch tokens 1"] | None:
        """Above 0.5 if the task ends after the token's step."""
        return self.fields.get("terminals")

    @property
    def next_observations(self) -> Float[Tensor, "batch tokens observation"] | None:
        """Observation after each token's step."""
        return self.fields.get("next_observations")

    @property
    def goal(self) -> Float[Tensor, "#batch goal"] | None:
        """Condition of the name "goal"; None without a goal."""
        return self.condition.get("goal")

    @property
    def in_episode(self) -> Float[Tensor, "batch tokens"]:
        """Probability that each token is in the episode: `min over j < k of 1 - terminal_j`.

        1 up to the token whose terminal ends the task and 0 after it; 1 everywhere without
        terminals. Differentiable; terminals are first limited to [0, 1]. Recorded terminals stay 1
        after the end. For estimates between 0 and 1 the minimum is therefore the probability that
        the task has not ended; a product would count an end several times.
        """
        if self.terminals is None:
            return torch.ones_like(self.observations[..., 0])
        ongoing = 1 - self.terminals[..., 0].clamp(0.0, 1.0)
        before = torch.cat([torch.ones_like(ongoing[:, :1]), ongoing[:, :-1]], dim=1)
        return before.cummin(dim=1).values

    @property
    def every_action(self) -> Float[Tensor, "batch steps action"] | None:
        """All actions of the tokens in temporal order; None without actions."""
        field = _action_field(self.fields)
        return None if field is None else field.actions(self.fields[field.name], self.stride)

    @property
    def decisions(
        self,
    ) -> tuple[Float[Tensor, "batch rows observation"], Float[Tensor, "batch rows action"]] | None:
        """Observations and the action at each: the token's action, or the first of a chunk.

        With previous actions, the action at the last token is unknown, and the result has one row
        less than tokens. None without actions.
        """
        field = _action_field(self.fields, every_step=False)
        if field is None:
            return None
        actions = field.decisions(self.fields[field.name], self.stride)
        return self.observations[:, : actions.shape[1]], actions


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """Values of the conditions of a batch of trajectories, in raw units: a return, a goal, a class.

    Attributes:
        values: `[batch or 1, ...]` for the name of each of the model's conditions
            (`TrajectoryDiffusion.conditions`): vectors, maps or tracks. A batch of 1 applies to all
            trajectories. Sequences and integers are converted to float32 tensors.

    Example:
        >>> from pgdiff import Condition
        >>> Condition(values={"return": [[100.0], [50.0]]}).batch
        2
    """

    values: Mapping[str, Float[Tensor, "#batch ..."]]

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping) or not self.values:
            raise PgdiffError(f"`values` must give at least one value by name. Got {self.values}.")
        checked = {str(name): _condition(str(name), value) for name, value in self.values.items()}
        sizes = {len(value) for value in checked.values()} - {1}
        if len(sizes) > 1:
            raise PgdiffError(
                "`values` must have one batch size, or 1. "
                f"Got { ({name: len(value) for name, value in checked.items()}) }."
            )
        object.__setattr__(self, "values", checked)

    @property
    def batch(self) -> int:
        """Number of trajectories; 1 also stands for any number."""
        return max(len(value) for value in self.values.values())


def _condition(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PgdiffError(f"`{name}` must be numbers [batch, size]. Got {value!r}.") from error
    if tensor.ndim < 2 or tensor.numel() == 0 or tensor.is_complex():
        raise PgdiffError(
            f"`{name}` must have shape [batch, size], or more dimensions. Got {list(tensor.shape)}."
        )
    if not tensor.is_floating_point():
        tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise PgdiffError(f"`{name}` must be finite. Got NaN or Inf.")
    return tensor


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan for one environment, with the candidates that it was chosen from, in raw units.

    Attributes:
        observations: `[tokens, observation]`, way-points of the chosen candidate. The first is the
            present observation, up to float32 rounding in the normaliser, or the plan's estimate of
            it if it is noisy or missing.
        actions: actions of the chosen candidate: `[tokens * stride, action]`, one for every
            environment step from now on, with action chunks; `[tokens, action]` with an action for
            each token; None without actions.
        candidates: `[candidates, tokens, observation]`, way-points of all candidates.
        scores: `[candidates]`, the guides' objective of each candidate; NaN without a guide.
        best: index of the chosen candidate.
        stride: environment steps between neighbouring way-points.
        goal: goal features of the plan; None without a goal.
        moves: `[candidates]`, distance by which the denoiser would move a token of each candidate
            (`pgdiff.planning.Plausibility`); None without this check.

    Example:
        >>> import numpy as np
        >>> from pgdiff import Plan
        >>> waypoints = np.zeros((2, 8, 4), np.float32)
        >>> plan = Plan(
        ...     observations=waypoints[0], actions=None, candidates=waypoints,
        ...     scores=np.zeros(2, np.float32), best=0, stride=1,
        ... )
        >>> plan.observations.shape
        (8, 4)
    """

    observations: Float[np.ndarray, "tokens observation"]
    actions: Float[np.ndarray, "steps action"] | None
    candidates: Float[np.ndarray, "candidates tokens observation"]
    scores: Float[np.ndarray, " candidates"]
    best: int
    stride: int
    goal: Float[np.ndarray, " goal"] | None = None
    moves: Float[np.ndarray, " candidates"] | None = None
