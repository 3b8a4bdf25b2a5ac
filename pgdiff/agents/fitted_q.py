"""Fitted Q evaluation: expected returns of policies, from a recording of another policy."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.agents.fitted_q_policies import PolicyActions, PolicyLike
from pgdiff.agents.offline import (
    action_normalizer,
    check_array_observations,
    check_feature_axis,
    flatten_batch,
    resolve_action_bounds,
    stack_members,
)
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range
from pgdiff.data import Episodes
from pgdiff.data.fitting import FromEpisodes
from pgdiff.data.normalizers import Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.data.transitions import TransitionDataset
from pgdiff.nn.mlp import BatchedMLP
from pgdiff.nn.target_network import polyak_update, target_copy

_BLOCK_ROWS = 4096

_UNKNOWN = (
    "`policies` must be given, because the folder of a FittedQ contains its networks only. Pass "
    "them to `estimates`; to train, create the learner with `from_episodes`."
)


@register("learner", "fitted_q")
class FittedQ(FromEpisodes):
    """Values of actions under several policies at once (Le et al. 2019, algorithm 3).

    For policy p, `Q_p(s, a)` is regressed on `r + gamma Q'_p(s', pi_p(s'))`, with a target network
    `Q'` instead of the paper's rounds. All policies use the same minibatches and the same initial
    weights, so that their values differ by the policies only. Values converge as
    `exp(-steps tau (1 - gamma))`: with the defaults, train about 100000 steps.

    Args:
        normalizer: of observations.
        action_low: lower bound of each action feature, scaled to -1.
        action_high: upper bound of each action feature, scaled to 1.
        members: number of policies.
        deterministic: whether policies return their most likely action instead of a sample.
        discount: gamma, in (0, 1).
        tau: Polyak step of the target networks, in (0, 1]; larger values follow faster.
        unit: factor of the networks' outputs, chosen so that outputs are of the order of 1.
        width: units of each hidden layer.
        depth: number of hidden layers.

    Attributes:
        policies: the evaluated policies with their actions; None after loading from a folder.

    Example:
        >>> from pgdiff.agents import Cloning
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> agent = Cloning.from_episodes(episodes, members=2, width=16)
        >>> critic = FittedQ.from_episodes(episodes, policies=[agent.member(0)], width=16)
        >>> critic.estimates(episodes.observations[episodes.starts]).shape
        (1,)
    """

    fitted_arguments: ClassVar[tuple[str, ...]] = (
        "normalizer",
        "action_low",
        "action_high",
        "members",
        "unit",
    )

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        action_low: Sequence[float],
        action_high: Sequence[float],
        members: int,
        deterministic: bool = True,
        discount: float = 0.99,
        tau: float = 0.005,
        unit: float = 1.0,
        width: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.action_low, self.action_high = tuple(action_low), tuple(action_high)
        self.actions = action_normalizer(self.action_low, self.action_high)
        self.members = check_positive_int("members", members)
        self.deterministic = bool(deterministic)
        self.discount = check_range(
            "discount", discount, low=0, high=1, open_low=True, open_high=True
        )
        self.tau = check_range("tau", tau, low=0, high=1, open_low=True)
        self.unit = check_range("unit", unit, low=0, open_low=True)
        self.width, self.depth = width, depth
        inputs = normalizer.features + self.actions.features
        self.network = BatchedMLP(members, inputs, 1, width=width, depth=depth)
        self.target_network = target_copy(self.network)
        self.policies: PolicyActions | None = None

    @classmethod
    def fit_arguments(
        cls,
        episodes: Episodes,
        *,
        policies: Sequence[PolicyLike],
        deterministic: bool,
        discount: float,
        seed: int,
        normalizer: str = "standard",
    ) -> dict[str, Any]:
        """Return the fitted arguments and the `policies`, which `construct` attaches.

        Args:
            episodes: the recording.
            policies: policies to evaluate: objects with `predict`, or folders of saved agents, each
                of which stands for all its members.
            deterministic: see the class.
            discount: see the class.
            seed: seed of the policies' random actions.
            normalizer: "standard" or "limits", of observations.

        Raises:
            PgdiffError: a setting is out of range; no policies; Dict observations.
        """
        check_array_observations(episodes)
        policy_actions = PolicyActions(policies, deterministic=deterministic, seed=seed)
        check_range("discount", discount, low=0, high=1, open_low=True, open_high=True)
        low, high = resolve_action_bounds(episodes, None, None, warn=False)
        rewards = selected(episodes, "rewards").astype(np.float64)
        return {
            "policies": policy_actions,
            "members": len(policy_actions),
            "normalizer": fit_normalizer(normalizer, [selected(episodes, "observations")]),
            "action_low": low,
            "action_high": high,
            "unit": float(np.sqrt(np.square(rewards).mean())) / (1 - discount) or 1.0,
        }

    @classmethod
    def construct(cls, arguments: dict[str, Any], *, seed: int) -> Self:
        """Return networks that all have the initial weights drawn from `seed`."""
        arguments = dict(arguments)
        policies = arguments.pop("policies")
        with seeded_torch(seed=seed):
            alone = cls(**arguments | {"members": 1})
            learner = cls(**arguments)
        learner.load_state_dict(stack_members([alone.state_dict()] * len(policies)))
        learner.policies = policies
        return learner

    def dataset(self, episodes: Episodes) -> TransitionDataset:
        """Return transitions with the policies' actions at the next observations.

        Raises:
            PgdiffError: policies are missing, or one has another action space.
        """
        if self.policies is None:
            raise PgdiffError(_UNKNOWN)
        actions = self.policies.at_next_observations(episodes, size=self.actions.features)
        return TransitionDataset(episodes, next_actions=actions)

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean squared error in units of `unit` squared, summed over policies.

        Args:
            batch: a `TransitionBatch` of tensors, whose `next_action` is
                `[batch, 1, policies, action]`.
            generator: not used.
        """
        reward, ongoing = batch.reward[:, 0] / self.unit, batch.ongoing[:, 0]
        with torch.no_grad():
            following = batch.next_observation.expand(-1, self.members, -1)
            inputs = self._inputs(following, batch.next_action[:, 0]).transpose(0, 1)
            target = reward + self.discount * ongoing * self.target_network(inputs)[..., 0]
        error = self._scaled_values(batch.observation[:, 0], batch.action[:, 0]) - target
        return {"critic": error.square().mean(dim=-1).sum()}

    def after_step(self) -> None:
        """Update the target networks."""
        polyak_update(self.target_network, self.network, self.tau)

    def q(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, " policies *batch"]:
        """Return the expected return of actions that each policy continues; differentiable."""
        check_feature_axis("observation", observation.shape, self.normalizer.features)
        check_feature_axis("action", action.shape, self.actions.features)
        values = self._scaled_values(flatten_batch(observation), flatten_batch(action))
        return self.unit * values.reshape(self.members, *observation.shape[:-1])

    @torch.no_grad()
    def estimates(
        self,
        observations: Float[np.ndarray, "rows observation"],
        *,
        policies: Sequence[PolicyLike] | None = None,
    ) -> Float[np.ndarray, " policies"]:
        """Return the mean value of each policy over observations, such as those of episode starts.

        Args:
            observations: in raw units.
            policies: the evaluated policies, in their order; required after loading from a folder.
                Random actions use seed 0.

        Raises:
            PgdiffError: policies are missing, or their number is wrong.
        """
        policy_actions = self.policies
        if policies is not None:
            policy_actions = PolicyActions(policies, deterministic=self.deterministic)
        if policy_actions is None:
            raise PgdiffError(_UNKNOWN)
        if len(policy_actions) != self.members:
            raise PgdiffError(
                f"`policies` must be {self.members} policies. Got {len(policy_actions)}."
            )
        if np.ndim(observations) != 2 or not len(observations):
            raise PgdiffError(
                "`observations` must have the shape [rows, observation], with at least one row. "
                f"Got {list(np.shape(observations))}."
            )
        check_feature_axis("observations", observations.shape, self.normalizer.features)
        like, total = next(self.parameters()), torch.zeros(self.members, dtype=torch.float64)
        for first in range(0, len(observations), _BLOCK_ROWS):
            block = np.array(observations[first : first + _BLOCK_ROWS], np.float32)
            actions = policy_actions.at(block, size=self.actions.features)
            states = torch.from_numpy(block).to(like)[:, None].expand(-1, self.members, -1)
            inputs = self._inputs(states, torch.from_numpy(actions).to(like))
            values = self.network(inputs.transpose(0, 1))[..., 0]
            total += values.sum(dim=-1).cpu()
        result: np.ndarray = (self.unit * total / len(observations)).numpy()
        return result

    def _inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        scaled = (self.normalizer.normalize(observation), self.actions.normalize(action))
        return torch.cat(scaled, dim=-1)

    def _scaled_values(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return all networks' values of the same actions `[batch, action]`, divided by `unit`."""
        inputs = self._inputs(observation, action).expand(self.members, -1, -1)
        out: Tensor = self.network(inputs)
        return out[..., 0]
