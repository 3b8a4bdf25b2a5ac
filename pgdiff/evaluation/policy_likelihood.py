"""How likely recorded actions are under a policy."""

import inspect
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from pgdiff.data import Episodes
from pgdiff.data.transitions import rows_of


@dataclass(frozen=True)
class PolicyLikelihood:
    """Log-density of actions, in nats per action feature.

    Attributes:
        mean: over the rows.
        standard_error: of the mean; rows of one episode may depend on each other. NaN for one
            episode.
    """

    mean: float
    standard_error: float


@torch.no_grad()
def policy_likelihood(
    agent: Any, episodes: Episodes, *, rows: int = 5000, seed: int = 0
) -> PolicyLikelihood:
    """Measure how likely a policy finds the actions of random rows.

    A squashed density, whose slope has no bound at the actions' bounds, goes on as a tangent beyond
    0.99 of them, as the guide `Policy` has it.

    Args:
        agent: has `log_prob(observation, action)`.
        episodes: of the agent's task.
        rows: drawn, at most.
        seed: of the draw.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(rows_of(episodes))[:rows])
    observation, action = (
        torch.from_numpy(np.array(values[chosen])).to(_device(agent))
        for values in (episodes.observations, episodes.actions)
    )
    options = {"limit": 0.99} if "limit" in inspect.signature(agent.log_prob).parameters else {}
    each = agent.log_prob(observation, action, **options).double().cpu().numpy() / action.shape[1]
    mean = float(each.mean())
    order = np.argsort(episodes.starts)
    owner = np.searchsorted(episodes.starts[order], chosen, side="right")
    sums = np.bincount(owner, weights=each - mean)
    count = len(np.unique(owner))
    # The variance of a mean over clusters: sums of deviations within an episode are independent.
    error = np.sqrt((sums**2).sum() * count / (count - 1)) / len(each) if count > 1 else np.nan
    return PolicyLikelihood(mean, float(error))


def _device(agent: Any) -> torch.device:
    """Where an agent's tensors are; the CPU for one that is no module or has none."""
    tensors = chain(agent.parameters(), agent.buffers()) if isinstance(agent, nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
