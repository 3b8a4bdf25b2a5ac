"""Inverse dynamics: the action that leads from an observation towards a way-point."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pgdiff.data import Episodes, segments
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.denoisers.mlp import mlp
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, as_array, check_positive_int


class PairBatch(NamedTuple):
    """Observations, a way-point some steps later, and the action taken now."""

    observations: Tensor
    waypoints: Tensor
    steps_left: Tensor
    actions: Tensor


class PairDataset:
    """Every row with every later row of its episode that is at most `gap` steps away.

    Args:
        episodes: recorded experience.
        gap: greatest number of steps between the two rows.
    """

    def __init__(self, episodes: Episodes, *, gap: int) -> None:
        self.episodes = episodes
        self.gap = check_positive_int("gap", gap)
        # Windows of two rows: the last row of an episode, which has no successor, starts none.
        self._index = segments(episodes, 2, 1)

    def __len__(self) -> int:
        return len(self._index) * self.gap

    @property
    def episode_starts(self) -> Int[np.ndarray, " episodes"]:
        """First rows of the episodes that examples come from."""
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
class InverseDynamics(Pretrained):
    """Action from (observation, way-point, steps left), by regression on recorded actions.

    Args:
        normalizer: of observations.
        actions: size of an action.
        stride: greatest number of steps to a way-point.
        low: lower bounds of the actions.
        high: upper bounds of the actions.
        width: of the network.
        depth: hidden layers of the network.
    """

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
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        stride: int,
        width: int = 256,
        depth: int = 2,
        seed: int = 0,
    ) -> "InverseDynamics":
        """Make a new network whose normaliser and action bounds fit recorded experience.

        `seed` gives the first weights; the other arguments are those of the class.
        """
        actions = selected(episodes, "actions")
        with seeded_torch(seed=seed):
            return cls(
                normalizer=fit_normalizer("standard", [selected(episodes, "observations")]),
                actions=actions.shape[1],
                stride=stride,
                low=tuple(map(float, actions.min(axis=0))),
                high=tuple(map(float, actions.max(axis=0))),
                width=width,
                depth=depth,
            )

    def dataset(self, episodes: Episodes) -> PairDataset:
        """Pairs of rows at most a stride apart."""
        return PairDataset(episodes, gap=self.stride)

    def losses(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of the action."""
        predicted = self(batch.observations, batch.waypoints, batch.steps_left)
        return {"action": F.mse_loss(predicted, batch.actions)}

    def forward(
        self,
        observation: Float[Tensor, "batch observation"],
        waypoint: Float[Tensor, "batch observation"],
        steps_left: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch action"]:
        """Unclipped action, from raw units to raw units."""
        now, then = self.normalizer.normalize(observation), self.normalizer.normalize(waypoint)
        # The difference, not the way-point itself: what is to be covered is small against both.
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
        """Action within the recorded bounds; a planner's controller."""
        inputs = [
            torch.tensor(as_array("observation", array).astype(np.float32), device=self.device)
            for array in (observation, waypoint, steps_left)
        ]
        action: np.ndarray = self(*inputs).cpu().numpy()
        # Not the buffers, which a network in half precision rounds.
        low, high = (np.array(bound, np.float32) for bound in (self.low, self.high))
        limited: np.ndarray = np.clip(action, low, high)
        return limited
