"""Stable-Baselines3's `evaluate_policy` on one environment and on eight, for a trained run.

python tests/benchmarks/agreement.py RUN [--episodes 50]
"""

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from pgdiff import load_planner
from pgdiff.evaluation import interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--task", default="pgdiff_envs:maze2d-umaze-v1")
    arguments = parser.parse_args()
    planner = load_planner(arguments.run)
    env = gym.make(arguments.task)
    environments = {"one environment": env, "eight": make_vec_env(arguments.task, n_envs=8, seed=0)}
    env.reset(seed=0)
    returns = {}
    for name, where in environments.items():
        episode_returns, _ = evaluate_policy(
            planner,
            where,
            n_eval_episodes=arguments.episodes,
            return_episode_rewards=True,
            warn=False,
        )
        returns[name] = np.asarray(episode_returns)
        scores = env.unwrapped.normalized_score(returns[name])
        low, high = interval(scores)
        print(f"{name}: {len(scores)} episodes, score {scores.mean():.1f} [{low:.1f}, {high:.1f}]")
    one, eight = returns.values()
    spread = np.sqrt(one.var() / len(one) + eight.var() / len(eight))
    gap = env.unwrapped.normalized_score(one).mean() - env.unwrapped.normalized_score(eight).mean()
    z = abs(one.mean() - eight.mean()) / spread
    print(f"difference {gap:+.1f}, {z:.2f} standard errors")


if __name__ == "__main__":
    main()
