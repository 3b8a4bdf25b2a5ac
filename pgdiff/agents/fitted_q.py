"""Fitted Q evaluation: what policies would earn, from a recording of another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.agents.bounds import action_scale, recorded_bounds
from pgdiff.agents.members import joined
from pgdiff.agents.offline import check_flat, check_last, flat
from pgdiff.agents.policy_actions import PolicyActions, PolicyLike
from pgdiff.agents.slow import follow, slow_copy
from pgdiff.data import Episodes
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.data.transitions import TransitionDataset
from pgdiff.denoisers.batched_mlp import BatchedMLP
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_positive_int, check_range

_BLOCK_ROWS = 4096

_UNKNOWN = (
    "`policies` must be given: a FittedQ that comes from a folder has its networks alone. "
    "`estimates` takes them; for training, make it anew with `from_episodes`."
)


@register("learner", "fitted_q")
class FittedQ(Pretrained):
    """Values of actions under several policies at once (Le et al. 2019, algorithm 3).

    For policy p, `Q_p(s, a)` is regressed on `r + gamma Q'_p(s', pi_p(s'))`, `Q'` being a slow copy
    in place of the paper's rounds. All policies see the same minibatches from the same first
    weights, so that differences between them are those of the policies. Values settle as
    `exp(-steps slow (1 - gamma))` does: with the defaults, train some 100000 steps.

    Args:
        normalizer: of observations.
        action_low: least value of each feature of an action, which is scaled to -1.
        action_high: greatest value of each.
        members: number of policies.
        deterministic: whether the policies take their best action, or draw one.
        discount: gamma, in (0, 1).
        slow: share of the networks that their slow copies take on at every step.
        unit: what the networks' outputs are multiples of, so that they are of the order of 1.
        width: of the hidden layers.
        depth: number of hidden layers.

    Attributes:
        policies: what is evaluated, and its actions; None in one that comes from a folder.
    """

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        action_low: Sequence[float],
        action_high: Sequence[float],
        members: int,
        deterministic: bool = True,
        discount: float = 0.99,
        slow: float = 0.005,
        unit: float = 1.0,
        width: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.action_low, self.action_high = tuple(action_low), tuple(action_high)
        self.actions = action_scale(self.action_low, self.action_high)
        self.members = check_positive_int("members", members)
        self.deterministic = bool(deterministic)
        self.discount = check_range(
            "discount", discount, low=0, high=1, open_low=True, open_high=True
        )
        self.slow = check_range("slow", slow, low=0, high=1, open_low=True)
        self.unit = check_range("unit", unit, low=0, open_low=True)
        self.width, self.depth = width, depth
        inputs = normalizer.features + self.actions.features
        self.network = BatchedMLP(members, inputs, 1, width=width, depth=depth)
        self.slow_network = slow_copy(self.network)
        self.policies: PolicyActions | None = None

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        policies: Sequence[PolicyLike],
        deterministic: bool = True,
        discount: float = 0.99,
        slow: float = 0.005,
        width: int = 256,
        depth: int = 2,
        normalizer: str = "standard",
        seed: int = 0,
    ) -> "FittedQ":
        """Make networks that fit recorded experience.

        Args:
            episodes: the recording.
            policies: what is evaluated: anything with `predict`, or folders of saved agents, each
                of which stands for all its members.
            deterministic: see the class.
            discount: see the class.
            slow: see the class.
            width: see the class.
            depth: see the class.
            normalizer: "standard" or "limits", of observations.
            seed: of the first weights, and of what the policies draw.

        Raises:
            PgdiffError: a setting is out of range; no policies; Dict observations.
        """
        check_flat(episodes)
        acting = PolicyActions(policies, deterministic=deterministic, seed=seed)
        check_range("discount", discount, low=0, high=1, open_low=True, open_high=True)
        low, high = recorded_bounds(episodes, None, None)
        rewards = selected(episodes, "rewards").astype(np.float64)
        settings: dict[str, Any] = {
            "normalizer": fit_normalizer(normalizer, [selected(episodes, "observations")]),
            "action_low": low,
            "action_high": high,
            "deterministic": deterministic,
            "discount": discount,
            "slow": slow,
            "unit": float(np.sqrt(np.square(rewards).mean())) / (1 - discount) or 1.0,
            "width": width,
            "depth": depth,
        }
        with seeded_torch(seed=seed):
            alone = cls(members=1, **settings)
            fitted = cls(members=len(acting), **settings)
        fitted.load_state_dict(joined([alone.state_dict()] * len(acting)))
        fitted.policies = acting
        return fitted

    def dataset(self, episodes: Episodes) -> TransitionDataset:
        """Transitions with the policies' actions at the next observations.

        Raises:
            PgdiffError: there are no policies, or one acts in another space.
        """
        if self.policies is None:
            raise PgdiffError(_UNKNOWN)
        actions = self.policies.along(episodes, size=self.actions.features)
        return TransitionDataset(episodes, next_actions=actions)

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Sum over policies of the mean squared errors, in squares of `unit`.

        Args:
            batch: a `TransitionBatch` of tensors, whose `next_action` is
                `[batch, 1, policies, action]`.
            generator: not used.
        """
        reward, ongoing = batch.reward[:, 0] / self.unit, batch.ongoing[:, 0]
        with torch.no_grad():
            following = batch.next_observation.expand(-1, self.members, -1)
            inputs = self._inputs(following, batch.next_action[:, 0]).transpose(0, 1)
            target = reward + self.discount * ongoing * self.slow_network(inputs)[..., 0]
        error = self._estimates(batch.observation[:, 0], batch.action[:, 0]) - target
        return {"critic": error.square().mean(dim=-1).sum()}

    def after_step(self) -> None:
        """Move the slow copies."""
        follow(self.slow_network, self.network, self.slow)

    def q(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, " policies *batch"]:
        """Estimated returns of actions, if each policy goes on from there; differentiable."""
        check_last("observation", observation.shape, self.normalizer.features)
        check_last("action", action.shape, self.actions.features)
        estimates = self._estimates(flat(observation), flat(action))
        return self.unit * estimates.reshape(self.members, *observation.shape[:-1])

    @torch.no_grad()
    def estimates(
        self,
        observations: Float[np.ndarray, "rows observation"],
        *,
        policies: Sequence[PolicyLike] | None = None,
    ) -> Float[np.ndarray, " policies"]:
        """Return the mean value of each policy over observations, such as an episode's first.

        Args:
            observations: in raw units.
            policies: those that were evaluated, in their order; needed after loading from a folder.
                Where they draw, they draw with seed 0.

        Raises:
            PgdiffError: there are no policies, or not as many as were evaluated.
        """
        acting = self.policies
        if policies is not None:
            acting = PolicyActions(policies, deterministic=self.deterministic)
        if acting is None:
            raise PgdiffError(_UNKNOWN)
        if len(acting) != self.members:
            raise PgdiffError(f"`policies` must be {self.members} policies. Got {len(acting)}.")
        if np.ndim(observations) != 2 or not len(observations):
            raise PgdiffError(
                "`observations` must have the shape [rows, observation], with at least a row. "
                f"Got {list(np.shape(observations))}."
            )
        check_last("observations", observations.shape, self.normalizer.features)
        like, total = next(self.parameters()), torch.zeros(self.members, dtype=torch.float64)
        for first in range(0, len(observations), _BLOCK_ROWS):
            block = np.array(observations[first : first + _BLOCK_ROWS], np.float32)
            actions = acting.at(block, size=self.actions.features)
            states = torch.from_numpy(block).to(like)[:, None].expand(-1, self.members, -1)
            inputs = self._inputs(states, torch.from_numpy(actions).to(like))
            values = self.network(inputs.transpose(0, 1))[..., 0]
            total += values.sum(dim=-1).cpu()
        result: np.ndarray = (self.unit * total / len(observations)).numpy()
        return result

    def _inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        scaled = (self.normalizer.normalize(observation), self.actions.normalize(action))
        return torch.cat(scaled, dim=-1)

    def _estimates(self, observation: Tensor, action: Tensor) -> Tensor:
        """What all networks say of the same actions `[batch, action]`, in multiples of `unit`."""
        inputs = self._inputs(observation, action).expand(self.members, -1, -1)
        out: Tensor = self.network(inputs)
        return out[..., 0]
