"""Inverse dynamics: the action that leads from an observation to a way-point."""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, as_array, check_positive_int
from pgdiff.data import Episodes, segments
from pgdiff.data.fitting import FromEpisodes
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.nn.mlp import mlp


class PairBatch(NamedTuple):
    """Observations, later way-points, the steps between them, and the present actions."""

    observations: Tensor
    waypoints: Tensor
    steps_left: Tensor
    actions: Tensor


class PairDataset:
    """Pairs of each row and each later row of its episode within `gap` steps.

    Args:
        episodes: the recording.
        gap: largest number of steps between the two rows.
    """

    def __init__(self, episodes: Episodes, *, gap: int) -> None:
        self.episodes = episodes
        self.gap = check_positive_int("gap", gap)
        # Windows of two rows, since the last row of an episode has no later row.
        self._index = segments(episodes, 2, 1)

    def __len__(self) -> int:
        return len(self._index) * self.gap

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First rows of the episodes that contain examples."""
        return self._index.starts

    def batch(self, indices: Int[np.ndarray, " batch"]) -> PairBatch:
        """Gather pairs; index i is row i // gap with a distance of 1 + i % gap."""
        which, distance = np.divmod(indices, self.gap)
        rows = self._index.rows(which)[0][:, 0]
        later = np.minimum(rows + distance + 1, self._index.last_rows(which))
        gathered = (
            self.episodes.observations[rows],
            self.episodes.observations[later],
            (later - rows).astype(np.float32),
            self.episodes.actions[rows],
        )
        return PairBatch(*gathered)


@register("learner", "inverse_dynamics")
class InverseDynamics(FromEpisodes):
    """Action for (observation, way-point, steps left), by regression on recorded actions.

    Args:
        normalizer: of observations.
        actions: number of features of an action.
        stride: largest number of steps to a way-point.
        low: lower bounds of the actions.
        high: upper bounds of the actions.
        width: units of each hidden layer.
        depth: number of hidden layers.

    Example:
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> controller = InverseDynamics.from_episodes(episodes, stride=3, width=16)
        >>> controller.act(episodes.observations[:2], episodes.observations[3:5], [3, 3]).shape
        (2, 2)
    """

    fitted_arguments: ClassVar[tuple[str, ...]] = ("normalizer", "actions", "low", "high")

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        actions: int,
        stride: int,
        low: tuple[float, ...],
        high: tuple[float, ...],
        width: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.actions = check_positive_int("actions", actions)
        self.stride = check_positive_int("stride", stride)
        self.low, self.high = tuple(low), tuple(high)
        if not len(self.low) == len(self.high) == actions or any(
            not a <= b for a, b in zip(self.low, self.high, strict=True)
        ):
            raise PgdiffError(
                f"`low` and `high` must be {actions} bounds each, in order. "
                f"Got {list(self.low)} and {list(self.high)}."
            )
        self.width, self.depth = width, depth
        self.network = mlp(2 * normalizer.features + 1, actions, width=width, depth=depth)

    @classmethod
    def fit_arguments(cls, episodes: Episodes) -> dict[str, Any]:
        """Return the standardising normaliser, and size and recorded bounds of the actions."""
        actions = selected(episodes, "actions")
        return {
            "normalizer": fit_normalizer("standard", [selected(episodes, "observations")]),
            "actions": actions.shape[1],
            "low": tuple(map(float, actions.min(axis=0))),
            "high": tuple(map(float, actions.max(axis=0))),
        }

    def dataset(self, episodes: Episodes) -> PairDataset:
        """Return pairs of rows at most `stride` steps apart."""
        return PairDataset(episodes, gap=self.stride)

    def losses(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean squared error of the action."""
        predicted = self(batch.observations, batch.waypoints, batch.steps_left)
        return {"action": F.mse_loss(predicted, batch.actions)}

    def forward(
        self,
        observation: Float[Tensor, "batch observation"],
        waypoint: Float[Tensor, "batch observation"],
        steps_left: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch action"]:
        """Return the unclipped action; all arguments and the result are in raw units."""
        now, then = self.normalizer.normalize(observation), self.normalizer.normalize(waypoint)
        # The difference is small compared with the way-point, so it is an input itself.
        inputs = torch.cat([now, then - now, steps_left[:, None] / self.stride], dim=-1)
        weight = next(self.network.parameters(), None)
        kind = inputs.dtype if weight is None else weight.dtype
        out: Tensor = self.network(inputs.to(kind))
        return out.to(observation.dtype)

    @torch.no_grad()
    def act(
        self,
        observation: Float[np.ndarray, "batch observation"],
        waypoint: Float[np.ndarray, "batch observation"],
        steps_left: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, "batch action"]:
        """Return the action, clipped to the recorded bounds."""
        inputs = [
            torch.tensor(as_array("observation", array).astype(np.float32), device=self.device)
            for array in (observation, waypoint, steps_left)
        ]
        action: np.ndarray = self(*inputs).cpu().numpy()
        # Not buffers, which a network in half precision would round.
        low, high = (np.array(bound, np.float32) for bound in (self.low, self.high))
        limited: np.ndarray = np.clip(action, low, high)
        return limited
