"""Coverage of 95 % intervals over training seeds, in simulated experiments.

Run it: `python tests/evaluation/interval_coverage.py`.

A score is the sum of an effect of its training seed, an effect of its start, common to all seeds,
and noise, all normal around 0. Three ways to draw: runs and episodes crossed, as `aggregate` does;
the episodes of each run separately; and runs alone, each as one number, as rliable does.
"""

import numpy as np
from test_aggregates import made, simulated

from pgdiff.evaluation import aggregate

TRIALS, EPISODES = 400, 100


def shares(runs: int, spread: tuple[float, float, float]) -> dict[str, float]:
    """Return the share of the simulated experiments whose interval contains 0."""
    rng = np.random.default_rng(1)
    held = {"crossed": 0, "apart": 0, "runs alone": 0}
    for _ in range(TRIALS):
        scores = simulated(rng, runs, EPISODES, spread)
        rows = list(enumerate(scores))
        given = {
            "crossed": [made(row, training_seed=n) for n, row in rows],
            "apart": [made(row, training_seed=n, seed=EPISODES * n) for n, row in rows],
            "runs alone": [made([row.mean()], training_seed=n, seed=n) for n, row in rows],
        }
        for name, evaluations in given.items():
            mean = aggregate(evaluations, resamples=400).mean
            held[name] += mean.low <= 0.0 <= mean.high
    return {name: count / TRIALS for name, count in held.items()}


if __name__ == "__main__":
    print("runs  of runs  of starts  noise  " + "  ".join(("crossed", "apart", "runs alone")))
    for runs in (3, 5, 10):
        for spread in ((2.0, 50.0, 50.0), (10.0, 50.0, 50.0), (50.0, 50.0, 50.0)):
            found = shares(runs, spread)
            figures = "  ".join(f"{share:7.3f}" for share in found.values())
            print(f"{runs:4d}  {spread[0]:7g}  {spread[1]:9g}  {spread[2]:5g}  {figures}")
