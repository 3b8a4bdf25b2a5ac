"""An ensemble of probabilistic one-step models, rolled out with a policy as a baseline."""

from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_seed
from pgdiff.data import Episodes, Normalizer, fit_normalizer
from pgdiff.data.fitting import FromEpisodes
from pgdiff.data.selection import selected
from pgdiff.data.transitions import TransitionDataset
from pgdiff.nn.mlp import BatchedMLP

ENDED = 0.5
"""Probability of an end above which a roll-out ends."""


@register("learner", "dynamics_ensemble")
class DynamicsEnsemble(FromEpisodes):
    """Ensemble that predicts the change of the observation, the reward and the end of the task.

    Chua et al. (2018), "PETS": each member maximises the likelihood of separate minibatches, with
    log-variances softly limited to learned bounds (appendix A.1). A roll-out uses one member for
    a whole trajectory (TS-infinity) and samples from its Gaussian in every step.

    Args:
        normalizer: of observations and actions, concatenated.
        changes: normaliser of the observation's change and the reward, concatenated.
        actions: number of features of an action.
        low: lower bounds of the actions.
        high: upper bounds of the actions.
        members: number of networks.
        width: units of each hidden layer.
        depth: number of hidden layers.

    Example:
        >>> from pgdiff.agents import Cloning
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> ensemble = DynamicsEnsemble.from_episodes(episodes, members=2, width=16)
        >>> policy = Cloning.from_episodes(episodes, members=1, width=16)
        >>> len(ensemble.rollout(policy, episodes.observations[:3], steps=5))
        3
    """

    fitted_arguments: ClassVar[tuple[str, ...]] = (
        "normalizer",
        "changes",
        "actions",
        "low",
        "high",
    )

    def __init__(
        self,
        *,
        normalizer: Normalizer,
        changes: Normalizer,
        actions: int,
        low: tuple[float, ...],
        high: tuple[float, ...],
        members: int = 5,
        width: int = 200,
        depth: int = 3,
    ) -> None:
        super().__init__()
        self.normalizer, self.changes = normalizer, changes
        self.actions = check_positive_int("actions", actions)
        self.low, self.high = tuple(low), tuple(high)
        self.members = check_positive_int("members", members)
        self.width, self.depth = width, depth
        size = changes.features
        if len(self.low) != actions or len(self.high) != actions:
            raise PgdiffError(
                f"`low` and `high` must be {actions} bounds each. "
                f"Got {len(self.low)} and {len(self.high)}."
            )
        if normalizer.features != size - 1 + actions:
            raise PgdiffError(
                f"`normalizer` must have {size - 1 + actions} features, for an observation and "
                f"an action. Got {normalizer.features}."
            )
        # Mean and log-variance of every change, and the logit of an end.
        self.network = BatchedMLP(
            members, normalizer.features, 2 * size + 1, width=width, depth=depth
        )
        self.most = nn.Parameter(torch.full((members, 1, size), 0.5))
        self.least = nn.Parameter(torch.full((members, 1, size), -10.0))

    @classmethod
    def fit_arguments(cls, episodes: Episodes) -> dict[str, Any]:
        """Return standardising normalisers, and size and recorded bounds of the actions."""
        change = TransitionDataset(episodes).changes()
        rewards = selected(episodes, "rewards")[:, None]
        actions = selected(episodes, "actions")
        observations = selected(episodes, "observations")
        return {
            "normalizer": fit_normalizer("standard", [observations, actions]),
            "changes": fit_normalizer("standard", [change, rewards]),
            "actions": actions.shape[1],
            "low": tuple(map(float, actions.min(axis=0))),
            "high": tuple(map(float, actions.max(axis=0))),
        }

    def dataset(self, episodes: Episodes) -> TransitionDataset:
        """Return transitions, shifted for each member."""
        return TransitionDataset(episodes, copies=self.members)

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return negative log-likelihoods of changes and ends of a `TransitionBatch`, summed."""
        now, action = (_members_first(part) for part in (batch.observation, batch.action))
        then = _members_first(batch.next_observation)
        reward, ongoing = batch.reward.T, batch.ongoing.T
        mean, log_variance, ended = self(now, action)
        target = self.changes.normalize(torch.cat([then - now, reward[..., None]], dim=-1))
        terms = (mean - target).square() * torch.exp(-log_variance) + log_variance
        # The next observation after an end is undefined; the reward counts.
        mask = torch.ones_like(terms)
        mask[..., :-1] = ongoing[..., None]
        nll = 0.5 * (terms * mask).mean(dim=(1, 2)).sum()
        bounds = 0.01 * (self.most.mean(dim=(1, 2)) - self.least.mean(dim=(1, 2))).sum()
        end = F.binary_cross_entropy_with_logits(ended, 1 - ongoing, reduction="none")
        return {"change": nll + bounds, "end": end.mean(dim=1).sum()}

    def forward(
        self,
        observation: Float[Tensor, "members batch observation"],
        action: Float[Tensor, "members batch action"],
    ) -> tuple[
        Float[Tensor, "members batch changes"],
        Float[Tensor, "members batch changes"],
        Float[Tensor, "members batch"],
    ]:
        """Return mean and log-variance of the normalised change, and the logit of an end."""
        inputs = self.normalizer.normalize(torch.cat([observation, action], dim=-1))
        out = self.network(inputs)
        size = self.changes.features
        mean, raw, ended = out[..., :size], out[..., size : 2 * size], out[..., -1]
        log_variance = self.most - F.softplus(self.most - raw)
        log_variance = self.least + F.softplus(log_variance - self.least)
        return mean, log_variance, ended

    @torch.no_grad()
    def rollout(
        self,
        policy: Any,
        starts: Float[np.ndarray, "batch observation"],
        *,
        steps: int,
        seed: int = 0,
        deterministic: bool = False,
        bounds: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Episodes:
        """Roll a policy out in the ensemble from given observations.

        Args:
            policy: has Stable-Baselines3's `predict` for batches; PyTorch's generator on the CPU
                is seeded for it.
            starts: first observations.
            steps: largest number of steps of a trajectory.
            seed: seed of members, noise and actions.
            deterministic: passed to `predict`.
            bounds: lowest and highest observation, such as the recorded ones. Sampled observations
                are clipped to them, since errors can otherwise grow without limit. None for no
                limits.

        Returns:
            The trajectories, with `next_observations`.

        Raises:
            PgdiffError: an observation is NaN or infinite.
        """
        steps = check_positive_int("steps", steps)
        count = len(starts)
        source = torch.Generator().manual_seed(check_seed("seed", seed))
        member = torch.randint(self.members, (count,), generator=source)
        now = torch.as_tensor(np.array(starts, np.float32))
        going = torch.ones(count, dtype=torch.bool)
        fields: dict[str, list[Tensor]] = {
            name: [] for name in ("observations", "actions", "rewards", "next_observations")
        }
        ends, valid = [], []
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        allowed = (-np.inf, np.inf) if bounds is None else bounds
        limits = [torch.as_tensor(np.array(end, np.float32)) for end in allowed]
        action_seed = int(torch.randint(2**62, (1,), generator=source))
        with seeded_torch(seed=action_seed):
            for _ in range(steps):
                chosen, _ = policy.predict(now.numpy(), deterministic=deterministic)
                action = torch.as_tensor(np.asarray(chosen, np.float32)).clamp(low, high)
                parts = self(
                    *(
                        part.expand(self.members, *part.shape).to(self.device)
                        for part in (now, action)
                    )
                )
                mean, log_variance, logit = (
                    part.cpu()[member, torch.arange(count)] for part in parts
                )
                noise = torch.randn(mean.shape, generator=source)
                change = self.changes.unnormalize(mean + (0.5 * log_variance).exp() * noise)
                after = (now + change[:, :-1]).clamp(*limits)
                ended = torch.sigmoid(logit) > ENDED
                for name, part in zip(fields, (now, action, change[:, -1], after), strict=True):
                    fields[name].append(part)
                ends.append(ended)
                valid.append(going)
                going = going & ~ended
                if not torch.isfinite(after[going]).all():
                    raise PgdiffError(
                        "A roll-out of the ensemble must stay finite. Got NaN or Inf. Use fewer "
                        "steps, or train the ensemble longer."
                    )
                now = torch.where(going[:, None], after, now)
                if not going.any():
                    break
        return _episodes(fields, torch.stack(ends, dim=1), torch.stack(valid, dim=1))


def _members_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def _episodes(fields: dict[str, list[Tensor]], ended: Tensor, valid: Tensor) -> Episodes:
    rows: dict[str, Any] = {
        name: torch.stack(parts, dim=1)[valid].numpy() for name, parts in fields.items()
    }
    last = torch.zeros_like(valid)
    last[torch.arange(len(valid)), valid.sum(dim=1) - 1] = True
    return Episodes.from_arrays(
        **rows, terminals=ended[valid].numpy(), timeouts=(last & ~ended)[valid].numpy()
    )
