"""Scores with a value and two forbidden discs, on maze2d-umaze.

    python tests/benchmarks/composition.py RUN [--seed 0] [--episodes 100]

Prints score and share of steps inside the discs, without and with the constraints, and the time of
three guides that share a gradient through the denoiser, compared with the slowest of them alone.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch

import pgdiff
from pgdiff.evaluation import Evaluation, evaluate, interval, paired_difference
from pgdiff.guides import Constraint, Disc, Goal, Value
from pgdiff.runs.run import read_run

# The corridor is free from 0.4 to 1.2 for the ball's centre: 0.2 stay open next to each disc.
# The recording is everywhere from 0.8 to 1.0, and crosses them.
DISCS = (((0.75, 2.2), 0.25), ((0.75, 1.1), 0.25))
ENV = "pgdiff_envs:maze2d-umaze-v1"
# Chosen on environment seeds from 10000 on. With a plan every 10 steps inertia carries the ball
# into discs; without the previous plan among the candidates some wait next to a disc forever.
SCALE, MARGIN, WEIGHT = 300.0, 0.1, 100.0
OFTEN: dict[str, Any] = {"replanning": {"every": 5}, "selection": {"keep_previous": True}}


def inside(result: Evaluation) -> float:
    """Return the share of steps in a disc."""
    steps = np.concatenate([trajectory[1:, :2] for trajectory in result.trajectories])
    near = [np.linalg.norm(steps - np.array(centre), axis=1) < r for centre, r in DISCS]
    return float(np.any(near, axis=0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    value: Any = read_run(options.run).load("value")

    def planner(*guides: Any, **settings: Any) -> pgdiff.Planner:
        return pgdiff.load_planner(options.run, guides=guides, **settings)

    def run(*guides: Any, **settings: Any) -> Evaluation:
        return evaluate(
            planner(*guides, **settings),
            lambda: gymnasium.make(ENV),
            episodes=options.episodes,
            seed=options.seed,
            progress=False,
            record=options.episodes,
        )

    discs = [
        Constraint(
            Disc(*disc, margin=MARGIN), scale=SCALE, gradient_at="denoiser", score_weight=WEIGHT
        )
        for disc in DISCS
    ]
    results = {
        "value": run(Value(value)),
        "value, replanning every 5": run(Value(value), **OFTEN),
        "value and two discs, replanning every 5": run(Value(value), *discs, **OFTEN),
    }
    for name, result in results.items():
        print(line(name, result), flush=True)
    *free, kept = results.values()
    for name, one in zip(results, free, strict=False):
        mean, low, high = paired_difference(scores(kept), scores(one))
        share = 100 * mean / scores(one).mean()
        print(f"discs against {name}: {mean:+.1f} [{low:+.1f}, {high:+.1f}], {share:+.1f} %")
    cost(planner, value)


def scores(result: Evaluation) -> np.ndarray:
    assert result.normalized_scores is not None
    return result.normalized_scores


def line(name: str, result: Evaluation) -> str:
    low, high = interval(scores(result))
    return (
        f"| {name} | {scores(result).mean():.1f} [{low:.1f}, {high:.1f}] "
        f"| {100 * inside(result):.2f} % | {100 * (result.returns == 0).mean():.0f} % |"
    )


def cost(planner: Any, value: Any, *, repeats: int = 31) -> None:
    """Print the milliseconds of a plan by its guides through the denoiser."""
    guides = [
        Value(value, gradient_at="denoiser", scale=1.0),
        Constraint(Disc(*DISCS[0]), gradient_at="denoiser", scale=1.0),
        Goal((1.0, 1.0), gradient_at="denoiser", scale=1.0),
    ]
    observation = np.array([3.0, 1.0, 0.0, 0.0], np.float32)
    planners = {guide.name: planner(guide) for guide in guides} | {"all three": planner(*guides)}
    spent: dict[str, list[float]] = {name: [] for name in planners}
    for _ in range(repeats):  # in turns, under equal load
        for name, made in planners.items():
            began = time.perf_counter()
            made.plan(observation)
            spent[name].append(1e3 * (time.perf_counter() - began))
    times = {name: median(each[1:]) for name, each in spent.items()}
    dearest = max(value for name, value in times.items() if name != "all three")
    print(", ".join(f"{name} {value:.1f} ms" for name, value in times.items()))
    print(f"all three against the dearest alone: {times['all three'] / dearest:.2f}")


if __name__ == "__main__":
    main()
