"""Every solver at several numbers of steps, on one trained run: score and milliseconds.

python tests/benchmarks/solvers.py RUN [--seed 0] [--episodes 30] [--candidates 8] [--out FILE]

Each row is the run's own planner with another solver. Episodes start from the environment seeds
`seed` and up, the same in every row, so that differences to the first row are paired.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
from timing import timings

from pgdiff import load_planner
from pgdiff.diffusion import DDIM, DDPM, Churn, Consistency, DPMSolver, Heun, Solver
from pgdiff.diffusion.spacing import KarrasSpacing, LogSnrSpacing, Spacing, UniformSpacing
from pgdiff.evaluation import evaluate, interval, paired_difference

SOLVERS: dict[str, tuple[Solver, Spacing]] = {
    "DDIM": (DDIM(), UniformSpacing()),
    "DDIM, eta 1": (DDIM(eta=1.0), UniformSpacing()),
    "DDPM, large variance": (DDPM(variance="large"), UniformSpacing()),
    "DPM-Solver++ 2M": (DPMSolver(), UniformSpacing()),
    "Heun": (Heun(), UniformSpacing()),
    "EDM churn": (Churn(), UniformSpacing()),
    "consistency step, forced": (Consistency(force=True), UniformSpacing()),
    "DDIM, log-SNR to 4": (DDIM(), LogSnrSpacing(high=4.0)),
    "DDIM, log-SNR to 6": (DDIM(), LogSnrSpacing(high=6.0)),
    "DDIM, eta 1, log-SNR to 6": (DDIM(eta=1.0), LogSnrSpacing(high=6.0)),
    "DPM-Solver++ 2M, log-SNR to 6": (DPMSolver(), LogSnrSpacing(high=6.0)),
    "Heun, log-SNR to 6": (Heun(), LogSnrSpacing(high=6.0)),
    "DPM-Solver++ 2M, Karras": (DPMSolver(), KarrasSpacing()),
}
STEPS = (5, 10, 20)
OTHER_STEPS = {
    "DDIM": (3, 5, 10, 20, 50),
    "DPM-Solver++ 2M": (5, 10, 20, 50),
    "Heun": (5, 10, 20, 50),
    "DDIM, log-SNR to 4": (2, 3),
    "DDIM, log-SNR to 6": (2, 3, 5, 10),
    "Heun, log-SNR to 6": (3, 5, 10),
}


@dataclass(frozen=True)
class Setting:
    """Settings of a row of the table."""

    solver: str
    steps: int


def settings() -> list[Setting]:
    """Return the rows, DDIM with 10 steps, the reference, first."""
    rows = [Setting("DDIM", 10)]
    for solver in SOLVERS:
        rows += [Setting(solver, count) for count in OTHER_STEPS.get(solver, STEPS)]
    return list(dict.fromkeys(rows))


def row(run: str, setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Return the scores of the episodes and the milliseconds of one plan."""
    solver, spacing = SOLVERS[setting.solver]
    planner = load_planner(run, candidates=options.candidates, device="cpu")
    sampling = planner.sampling.replace(solver=solver, spacing=spacing, steps=setting.steps)
    planner = planner.replace(sampling=sampling)
    make_env = lambda: gym.make(options.task)  # noqa: E731
    result = evaluate(
        planner, make_env, episodes=options.episodes, seed=options.seed, progress=False
    )
    observation, _ = make_env().reset(seed=options.seed)
    spent = timings(lambda: planner.plan(observation), repeats=options.repeats)
    assert result.normalized_scores is not None
    return {
        "solver": setting.solver,
        "steps": setting.steps,
        "scores": [float(score) for score in result.normalized_scores],
        "milliseconds": 1e3 * median(spent),
    }


def line(result: dict[str, Any], first: dict[str, Any]) -> str:
    """Return one line of the table as Markdown."""
    low, high = interval(result["scores"])
    mean = sum(result["scores"]) / len(result["scores"])
    cells = [result["solver"], str(result["steps"]), f"{mean:.1f} [{low:.1f}, {high:.1f}]"]
    if result is first:
        cells.append("")
    else:
        gap, low, high = paired_difference(result["scores"], first["scores"])
        cells.append(f"{gap:+.1f} [{low:+.1f}, {high:+.1f}]")
    cells.append(f"{result['milliseconds']:.1f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--task", default="pgdiff_envs:maze2d-umaze-v1")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    print("| solver | steps | score | difference to the first row, paired | ms a plan |")
    print("|---|---|---|---|---|")
    for setting in settings():
        results.append(row(options.run, setting, options))
        print(line(results[-1], results[0]), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
