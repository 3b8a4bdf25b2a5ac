"""An ensemble of probabilistic one-step models, rolled out with a policy: the usual alternative."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.data import Episodes, Normalizer, fit_normalizer
from pgdiff.data.selection import selected
from pgdiff.data.transitions import TransitionDataset
from pgdiff.denoisers.batched_mlp import BatchedMLP
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_positive_int, check_seed

ENDED = 0.5


@register("learner", "dynamics_ensemble")
class DynamicsEnsemble(Pretrained):
    """Gaussian change of the observation and reward, and the chance of an end, by several networks.

    Chua et al. (2018), "PETS": every member learns by the likelihood of its own minibatches, with
    log-variances softly held between learned bounds (their appendix A.1); a roll-out keeps one
    member for the whole of a trajectory (TS-infinity) and draws from its Gaussian in every step.

    Args:
        normalizer: of observations and actions side by side.
        changes: normaliser of the observation's change and the reward side by side.
        actions: size of an action.
        low: lower bounds of the actions.
        high: upper bounds of the actions.
        members: number of networks.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

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
                f"`normalizer` must have {size - 1 + actions} features, those of an observation "
                f"and an action. Got {normalizer.features}."
            )
        # Mean and log-variance of every change, and the logit of an end.
        self.network = BatchedMLP(
            members, normalizer.features, 2 * size + 1, width=width, depth=depth
        )
        self.most = nn.Parameter(torch.full((members, 1, size), 0.5))
        self.least = nn.Parameter(torch.full((members, 1, size), -10.0))

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        members: int = 5,
        width: int = 200,
        depth: int = 3,
        seed: int = 0,
    ) -> "DynamicsEnsemble":
        """Make a new ensemble whose normalisers and bounds fit recorded experience.

        `seed` gives the first weights; the other arguments are those of the class.
        """
        change = TransitionDataset(episodes).changes()
        rewards = selected(episodes, "rewards")[:, None]
        actions = selected(episodes, "actions")
        observations = selected(episodes, "observations")
        with seeded_torch(seed=seed):
            return cls(
                normalizer=fit_normalizer("standard", [observations, actions]),
                changes=fit_normalizer("standard", [change, rewards]),
                actions=actions.shape[1],
                low=tuple(map(float, actions.min(axis=0))),
                high=tuple(map(float, actions.max(axis=0))),
                members=members,
                width=width,
                depth=depth,
            )

    def dataset(self, episodes: Episodes) -> TransitionDataset:
        """Transitions, for every member its own."""
        return TransitionDataset(episodes, copies=self.members)

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Negative log-likelihood of the changes and of the end of a `TransitionBatch`, summed."""
        now, action = (_member_first(part) for part in (batch.observation, batch.action))
        then = _member_first(batch.next_observation)
        reward, ongoing = batch.reward.T, batch.ongoing.T
        mean, log_variance, ended = self(now, action)
        target = self.changes.normalize(torch.cat([then - now, reward[..., None]], dim=-1))
        terms = (mean - target).square() * torch.exp(-log_variance) + log_variance
        # What follows an end means nothing; its reward does.
        counted = torch.ones_like(terms)
        counted[..., :-1] = ongoing[..., None]
        nll = 0.5 * (terms * counted).mean(dim=(1, 2)).sum()
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
        """Each member's mean and log-variance of the normalised change, and logit of an end."""
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
        """Let a policy act in the ensemble, from given observations.

        Args:
            policy: has Stable-Baselines3's `predict`, for batches; what it draws by PyTorch's
                generator on the CPU is seeded too.
            starts: first observations.
            steps: of a trajectory, unless it ends before.
            seed: of members, noise and actions.
            deterministic: whether the policy is asked for its mean action.
            bounds: least and greatest observation, such as the recorded ones; what is drawn beyond
                is put on them, as errors else grow without end. None for any.

        Returns:
            Trajectories with `next_observations`, one after the other.

        Raises:
            PgdiffError: a roll-out that leaves what numbers can hold; shorten it, or train longer.
        """
        steps = check_positive_int("steps", steps)
        count = len(starts)
        source = torch.Generator().manual_seed(check_seed("seed", seed))
        member = torch.randint(self.members, (count,), generator=source)
        now = torch.as_tensor(np.array(starts, np.float32))
        going = torch.ones(count, dtype=torch.bool)
        told: dict[str, list[Tensor]] = {
            name: [] for name in ("observations", "actions", "rewards", "next_observations")
        }
        ends, there = [], []
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        allowed = (-np.inf, np.inf) if bounds is None else bounds
        limits = [torch.as_tensor(np.array(end, np.float32)) for end in allowed]
        actions = int(torch.randint(2**62, (1,), generator=source))  # not the dynamics' stream
        with seeded_torch(seed=actions):
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
                drawn = self.changes.unnormalize(mean + (0.5 * log_variance).exp() * noise)
                after = (now + drawn[:, :-1]).clamp(*limits)
                ended = torch.sigmoid(logit) > ENDED
                for name, part in zip(told, (now, action, drawn[:, -1], after), strict=True):
                    told[name].append(part)
                ends.append(ended)
                there.append(going)
                going = going & ~ended
                if not torch.isfinite(after[going]).all():
                    raise PgdiffError(
                        "A roll-out of the ensemble must stay finite. Got NaN or Inf: shorten "
                        "it, or train the ensemble longer."
                    )
                now = torch.where(going[:, None], after, now)
                if not going.any():
                    break
        return _episodes(told, torch.stack(ends, dim=1), torch.stack(there, dim=1))


def _member_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def _episodes(told: dict[str, list[Tensor]], ended: Tensor, there: Tensor) -> Episodes:
    rows: dict[str, Any] = {
        name: torch.stack(parts, dim=1)[there].numpy() for name, parts in told.items()
    }
    last = torch.zeros_like(there)
    last[torch.arange(len(there)), there.sum(dim=1) - 1] = True
    return Episodes.from_arrays(
        **rows, terminals=ended[there].numpy(), timeouts=(last & ~ended)[there].numpy()
    )
