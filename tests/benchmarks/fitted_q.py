"""Fitted Q evaluation of ten fixed policies, compared with their true returns.

    python tests/benchmarks/fitted_q.py DATA WORSE.zip BETTER.zip [--task hopper-v5] [--seed 0]

The policies are two agents with noise on their actions. Estimates are mean values of the recorded
first observations, learned from the recording only; true returns are those of simulated episodes.
"""

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import pgdiff
from pgdiff.agents import FittedQ, load
from pgdiff.evaluation import evaluate, interval
from pgdiff.training import Trainer

POLICIES = (
    *(("better", noise) for noise in (0.0, 0.05, 0.1, 0.15, 0.25, 0.7, 1.0, 2.0)),
    *(("worse", noise) for noise in (0.3, 0.5)),
)
"""Policies, chosen by their true returns, which are far apart, and not by estimates."""

DISCOUNT = 0.997
"""Discount, nearer to 1 than in policy learning: it ranks returns of 1,000 steps."""


class Noisy:
    """An agent's best actions with Gaussian noise, in units of half the range of actions."""

    def __init__(self, agent: Any, noise: float, *, seed: int) -> None:
        self.agent, self.noise = agent, noise
        self._random = np.random.default_rng(seed)

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Draw actions, for any value of `deterministic`."""
        action, state = self.agent.predict(observation, deterministic=True)
        drawn = action + self.noise * self._random.standard_normal(np.shape(action))
        return np.clip(drawn, -1, 1).astype(np.float32), state


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Return the rank correlation of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("worse", type=Path)
    parser.add_argument("better", type=Path)
    parser.add_argument("--task", default="hopper-v5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--updates", type=int, default=25_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    agents = {name: load(getattr(options, name)) for name in ("worse", "better")}
    policies = [
        Noisy(agents[name], noise, seed=options.seed + number)
        for number, (name, noise) in enumerate(POLICIES)
    ]
    true_returns = [
        evaluate(
            policy,
            lambda: gymnasium.make(f"pgdiff_envs:{options.task}"),
            episodes=options.episodes,
            seed=options.seed,
            parallel=options.episodes,
            progress=False,
        ).returns
        for policy in policies
    ]
    episodes = pgdiff.load_episodes(options.data)
    # Values settle as exp(-updates tau (1 - discount)): to 2 % here.
    fitted = FittedQ.from_episodes(
        episodes, policies=policies, discount=DISCOUNT, tau=0.05, seed=options.seed
    )
    Trainer(
        steps=options.updates,
        batch_size=256,
        learning_rate=3e-4,
        warmup=0,
        ema_decay=0.0,
        clip_norm=None,
        validation=0.0,
        seed=options.seed,
    ).fit(fitted, episodes)
    estimates = fitted.estimates(np.array(episodes.observations[episodes.starts]))
    print("| policy | noise | true return | estimate, discounted |\n|---|---|---|---|")
    for (name, noise), returns, estimate in zip(POLICIES, true_returns, estimates, strict=True):
        low, high = interval(returns)
        print(
            f"| {name} | {noise:g} | {returns.mean():.0f} [{low:.0f}, {high:.0f}] "
            f"| {estimate:.0f} |"
        )
    true = np.array([returns.mean() for returns in true_returns])
    print(f"Spearman {spearman(true, estimates):.3f} after {options.updates} updates")


if __name__ == "__main__":
    main()
