"""What the numbers of a trajectory mean: the layout of a token, segments and plans in raw units."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_in, check_positive_int

FIELDS = (
    "observations",
    "actions",
    "action_chunks",
    "previous_actions",
    "rewards",
    "terminals",
    "next_observations",
)
"""What a token may hold; the names of `Segment`."""


@register("layout", "tokens")
@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the D features of each of T tokens are.

    Attributes:
        fields: name and size of each field, in the order in which they lie in a token, for example
            `(("observations", 4),)`. Names are those of `Segment`.
        horizon: number of tokens T of a segment.
        stride: environment steps between neighbouring tokens.
    """

    fields: tuple[tuple[str, int], ...]
    horizon: int
    stride: int = 1

    def __post_init__(self) -> None:
        for name, size in self.fields:
            check_in("fields", name, FIELDS)
            check_positive_int(f"size of field '{name}'", size)
        names = [name for name, _ in self.fields]
        if "observations" not in names or len(set(names)) < len(names):
            raise PgdiffError(
                "`fields` must hold 'observations', and each field once. Got "
                f"{', '.join(names) or 'none'}."
            )
        check_positive_int("horizon", self.horizon)
        check_positive_int("stride", self.stride)
        sizes = dict(self.fields)
        for name in ("action_chunks", "previous_actions"):
            if sizes.get(name, 0) % self.stride:
                raise PgdiffError(
                    f"`fields` must give '{name}' the size of `stride` actions. Got "
                    f"{sizes[name]} with a stride of {self.stride}."
                )
        if "previous_actions" in sizes and (
            self.horizon < 2 or "actions" in sizes or "action_chunks" in sizes
        ):
            raise PgdiffError(
                "`fields` may hold 'previous_actions' without other actions, and with a `horizon` "
                f"of at least 2. Got {', '.join(sizes)} and a horizon of {self.horizon}."
            )
        for name in ("rewards", "terminals"):
            if sizes.get(name, 1) != 1:
                raise PgdiffError(f"`fields` must give '{name}' the size 1. Got {sizes[name]}.")
        if sizes.get("next_observations", sizes["observations"]) != sizes["observations"]:
            raise PgdiffError(
                "`fields` must give 'next_observations' the size of the observations, "
                f"{sizes['observations']}. Got {sizes['next_observations']}."
            )
        # A layout that is read back from JSON, which has lists only, must equal the one written.
        object.__setattr__(self, "fields", tuple((name, int(size)) for name, size in self.fields))

    @property
    def features(self) -> int:
        """Number of features D of a token."""
        return sum(size for _, size in self.fields)

    @property
    def slices(self) -> Mapping[str, slice]:
        """Where each field lies in a token."""
        ends = list(accumulate(size for _, size in self.fields))
        return {
            name: slice(end - size, end)
            for (name, size), end in zip(self.fields, ends, strict=True)
        }

    @property
    def action_size(self) -> int | None:
        """Number of features of one action; None where tokens hold none."""
        sizes = dict(self.fields)
        for name in ("action_chunks", "previous_actions"):
            if name in sizes:
                return sizes[name] // self.stride
        return sizes.get("actions")

    def segment(self, x: Float[Tensor, "batch tokens features"]) -> "Segment":
        """Name the fields of `x`, which is in raw units."""
        parts: dict[str, Any] = {name: x[..., where] for name, where in self.slices.items()}
        return Segment(stride=self.stride, **parts)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A batch of trajectory pieces in raw units, differentiable; what a guide sees.

    Attributes:
        observations: `[batch, tokens, observation]`, the state at every `stride`-th step.
        actions: `[batch, tokens, action]`, or None where the model does not generate them.
        action_chunks: `[batch, tokens, stride * action]`, the actions of the `stride` steps from
            each token on, one after the other; or None.
        previous_actions: `[batch, tokens, stride * action]`, the actions of the `stride` steps that
            lead from the token before to each token, as Chen et al. (2024), section 4.2, lay them
            out; 0 at the first token. Or None.
        rewards: `[batch, tokens, 1]`, or None.
        terminals: `[batch, tokens, 1]`, above 0.5 where the task ends after the token's step; None
            where the model does not generate them.
        next_observations: `[batch, tokens, observation]`, what follows each token's step; or None.
        stride: environment steps between neighbouring tokens.
        goal: `[batch or 1, goal]`, what the plans are to reach, or None where none was asked for.
    """

    observations: Float[Tensor, "batch tokens observation"]
    actions: Float[Tensor, "batch tokens action"] | None = None
    action_chunks: Float[Tensor, "batch tokens chunk"] | None = None
    previous_actions: Float[Tensor, "batch tokens chunk"] | None = None
    rewards: Float[Tensor, "batch tokens 1"] | None = None
    terminals: Float[Tensor, "batch tokens 1"] | None = None
    next_observations: Float[Tensor, "batch tokens observation"] | None = None
    stride: int = 1
    goal: Float[Tensor, "#batch goal"] | None = None

    @property
    def in_episode(self) -> Float[Tensor, "batch tokens"]:
        """How far each token belongs to the episode: `min over j < k of 1 - terminal_j`.

        1 up to the token whose terminal ends the task, 0 after it; 1 everywhere where the model
        generates no terminals. Differentiable; terminals are first limited to [0, 1]. Recorded
        terminals stay 1 after the end, so that for an estimate between 0 and 1 the minimum is the
        probability that the task has not ended, where a product would count an end several times.
        """
        if self.terminals is None:
            return torch.ones_like(self.observations[..., 0])
        ongoing = 1 - self.terminals[..., 0].clamp(0.0, 1.0)
        before = torch.cat([torch.ones_like(ongoing[:, :1]), ongoing[:, :-1]], dim=1)
        return before.cummin(dim=1).values

    @property
    def every_action(self) -> Float[Tensor, "batch steps action"] | None:
        """All actions that the tokens hold, in the order of time; None where they hold none."""
        chunks = self.action_chunks
        if chunks is None and self.previous_actions is not None:
            chunks = self.previous_actions[:, 1:]  # nothing leads to the first token
        if chunks is None:
            return self.actions
        return torch.unflatten(chunks, -1, (self.stride, -1)).flatten(1, 2)

    @property
    def decisions(
        self,
    ) -> tuple[Float[Tensor, "batch rows observation"], Float[Tensor, "batch rows action"]] | None:
        """Observations and the action taken at each: the token's own, or the first of a chunk.

        Where tokens hold the actions that lead to them, what is done at the last is not told, and
        there is a row less than tokens. None where they hold none.
        """
        if self.actions is not None:
            return self.observations, self.actions
        if self.action_chunks is not None:
            size = self.action_chunks.shape[-1] // self.stride
            return self.observations, self.action_chunks[..., :size]
        if self.previous_actions is not None:
            size = self.previous_actions.shape[-1] // self.stride
            return self.observations[:, :-1], self.previous_actions[:, 1:, :size]
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """What a batch of trajectories is to be like, by name, in raw units: a return, a goal, a class.

    The names are those of the model's conditions (`TrajectoryDiffusion.conditions`).

    Attributes:
        values: `[batch or 1, size]` for each name; a batch of 1 stands for all trajectories alike.
            Sequences and integers are made tensors of float32.
    """

    values: Mapping[str, Float[Tensor, "#batch size"]]

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
        """Number of trajectories; 1 also for any number of them."""
        return max(len(value) for value in self.values.values())


def _condition(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PgdiffError(f"`{name}` must be numbers [batch, size]. Got {value!r}.") from error
    if tensor.ndim != 2 or tensor.numel() == 0 or tensor.is_complex():
        raise PgdiffError(f"`{name}` must have shape [batch, size]. Got {list(tensor.shape)}.")
    if not tensor.is_floating_point():
        tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise PgdiffError(f"`{name}` must be finite. Got NaN or Inf.")
    return tensor


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan for one environment, with all that it was chosen from, in raw units.

    Attributes:
        observations: `[tokens, observation]`, the way-points of the chosen candidate; the first is
            the observation that was planned from, up to float32 rounding in the normaliser, or,
            where that was noisy or not there, what the plan takes it for.
        actions: the chosen candidate's own: `[tokens * stride, action]`, one for every environment
            step from now on, where its tokens hold action chunks; `[tokens, action]` where they
            hold the action at their row; None where the model generates none.
        candidates: `[candidates, tokens, observation]`.
        scores: `[candidates]`, the guides' energy of each candidate; NaN without a guide.
        best: index of the chosen candidate.
        stride: environment steps between neighbouring way-points.
        goal: the goal `(x, y)` that was asked for, or None.
        moves: `[candidates]`, how far the denoiser would move a token of each candidate
            (`pgdiff.planning.Plausibility`), or None where that was not asked.
    """

    observations: Float[np.ndarray, "tokens observation"]
    actions: Float[np.ndarray, "steps action"] | None
    candidates: Float[np.ndarray, "candidates tokens observation"]
    scores: Float[np.ndarray, " candidates"]
    best: int
    stride: int
    goal: Float[np.ndarray, " goal"] | None = None
    moves: Float[np.ndarray, " candidates"] | None = None
