"""Likelihood and simulator errors of plans that a policy guides.

    python tests/benchmarks/policy_guidance.py RUN AGENT [--scales 0.1 …] [--starts 64] [--seed 0]

RUN is a run of `recipe=actions` with a stage `cloning` (`pgdiff train recipe=cloning base=RUN`),
AGENT the policy that guides. All rows of the table share their starts, which are recorded rows, and
their noise.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import pgdiff
from pgdiff.agents import Cloning, load
from pgdiff.data import Episodes
from pgdiff.diffusion import LogSnrSpacing, TrustRegion
from pgdiff.guides import Policy
from pgdiff.planning import PLANNING
from pgdiff.runs.run import read_run

FASTEST = 9.99  # velocities are clipped at 10, so larger ones cannot be set


@dataclass(frozen=True)
class Figures:
    """Figures of a batch of plans.

    Attributes:
        target: mean log-likelihood of an action under the guiding policy.
        behaviour: mean log-likelihood of an action under the cloned behaviour.
        one_step: `[tokens - 1]`, error of each next observation from the simulator's, from the
            plan's own observation; root mean square over features and plans in units of the data's
            one-step change.
        open_loop: `[tokens - 1]`, the error of a simulation of the plan's actions from the start.
        outside: share of actions outside the bounds.
    """

    target: float
    behaviour: float
    one_step: np.ndarray
    open_loop: np.ndarray
    outside: float

    @property
    def error(self) -> float:
        """Return the mean one-step error."""
        return float(self.one_step.mean())


def starts_of(episodes: Episodes, *, count: int, tokens: int, seed: int) -> np.ndarray:
    """Return recorded observations with room for a plan, without clipped velocities."""
    last = np.repeat(episodes.ends - 1, episodes.lengths)
    slow = (np.abs(episodes.observations) < FASTEST).all(axis=1)
    rows = np.flatnonzero(slow & (np.arange(episodes.steps) + tokens <= last))
    chosen = np.random.default_rng(seed).choice(rows, size=count, replace=False)
    return np.asarray(episodes.observations[np.sort(chosen)])


def one_step_scale(episodes: Episodes) -> np.ndarray:
    """Return the standard deviation of one-step changes by feature."""
    inside = np.ones(episodes.steps, bool)
    inside[episodes.ends - 1] = False
    rows = np.flatnonzero(inside)
    change = episodes.observations[rows + 1] - episodes.observations[rows]
    deviation: np.ndarray = change.std(axis=0)
    return deviation


def figures(
    plans: Sequence[pgdiff.Plan], env: Any, agent: Any, cloned: Cloning, scale: np.ndarray
) -> Figures:
    """Measure plans with policies and the simulator."""
    observations = np.stack([plan.observations for plan in plans])
    actions = np.stack([plan.actions for plan in plans])
    low, high = env.action_space.low, env.action_space.high
    clipped = np.clip(actions, low, high)
    o, a = torch.as_tensor(observations), torch.as_tensor(actions)
    with torch.no_grad():
        target = float(agent.log_prob(o, a, limit=0.99).mean())
        behaviour = float(cloned.log_prob(o, a).mean())
    one_step, open_loop = [], []
    for plan, acts in zip(observations, clipped, strict=True):
        near, far = [], []
        for k in range(len(plan) - 1):
            env.unwrapped.set_observation(plan[k])
            near.append((env.unwrapped.step(acts[k])[0] - plan[k + 1]) / scale)
        env.unwrapped.set_observation(plan[0])
        for k in range(len(plan) - 1):
            far.append((env.unwrapped.step(acts[k])[0] - plan[k + 1]) / scale)
        one_step.append(near)
        open_loop.append(far)
    return Figures(
        target,
        behaviour,
        *(np.sqrt(np.square(errors).mean(axis=(0, 2))) for errors in (one_step, open_loop)),
        float(((actions < low) | (actions > high)).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("agent", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.4, 1.3, 4.0, 13.0, 40.0])
    parser.add_argument("--starts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--high", type=float, default=6.0, help="log-SNR of the last step's start")
    parser.add_argument("--radius", type=float, default=0.3)
    parser.add_argument("--nats", type=float, default=0.3)
    parser.add_argument("--per", default="token")
    parser.add_argument(
        "--policy", type=json.loads, default={"normalize_gradient": "step"}, help="JSON"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = read_run(options.run)
    model, cloned = run.load("model"), run.load("cloning")
    assert isinstance(model, pgdiff.TrajectoryDiffusion) and isinstance(cloned, Cloning)
    agent = load(options.agent)
    episodes = pgdiff.load_episodes(options.data or run.data["path"])
    env = gymnasium.make(str(run.task["id"]))
    starts = starts_of(episodes, count=options.starts, tokens=model.codec.tokens, seed=options.seed)
    unit = one_step_scale(episodes)
    region = TrustRegion(radius=options.radius, nats=options.nats, per=options.per)
    rows = []
    for scale in [0.0, *options.scales]:
        for trust in (None, region) if scale else (None,):
            guides = [Policy(agent, scale=scale, **options.policy)] if scale else []
            sampling = PLANNING.replace(
                steps=options.steps,
                spacing=LogSnrSpacing(high=options.high),
                trust_region=trust,
                clip=None,  # shows the actions that guidance moves out of the recorded range
            )
            planner = pgdiff.Planner(
                model, guides, controller="actions", candidates=1, sampling=sampling
            )
            seeds = [options.seed + number for number in range(len(starts))]
            measured = figures(planner.plan_batch(starts, seeds=seeds), env, agent, cloned, unit)
            rows.append((scale, trust is not None, measured))
            print(line(scale, trust is not None, measured, rows[0][2]), flush=True)
    if options.out:
        content = [
            {
                "scale": scale,
                "trust_region": trust,
                **{
                    key: value.tolist() if isinstance(value, np.ndarray) else value
                    for key, value in vars(measured).items()
                },
            }
            for scale, trust, measured in rows
        ]
        options.out.write_text(json.dumps(content, indent=1) + "\n")


def line(scale: float, trust: bool, measured: Figures, unguided: Figures) -> str:
    """Return one row of the table."""
    return (
        f"| {scale:g} | {'yes' if trust else 'no'} | {measured.target:.2f} "
        f"| {measured.behaviour:.2f} "
        f"| {measured.error:.3f} ({measured.error / unguided.error:.2f}) "
        f"| {measured.open_loop[-1]:.2f} | {100 * measured.outside:.1f} % |"
    )


if __name__ == "__main__":
    main()
