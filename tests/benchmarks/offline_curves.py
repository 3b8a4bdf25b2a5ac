"""Returns of each member of an offline agent at every checkpoint of a run.

    python tests/benchmarks/offline_curves.py RUN [--stage iql] [--seed 0] [--episodes 20]

RUN was trained with, for example, `trainer.checkpoint_every=20000 trainer.keep=10`.
"""

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from safetensors.torch import load_file

from pgdiff.evaluation import evaluate, interval
from pgdiff.runs.run import read_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--stage", default="iql")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = read_run(options.run)
    learner: Any = run.load(options.stage)

    def make_env() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(str(run.task["id"]))

    score = make_env().unwrapped.normalized_score  # type: ignore[attr-defined]
    for folder in sorted((options.run / "logs" / options.stage / "checkpoints").glob("step-*")):
        learner.load_state_dict(load_file(folder / "weights.safetensors"))
        returns = []
        for member in range(learner.members):
            result = evaluate(
                learner.member(member),
                make_env,
                episodes=options.episodes,
                seed=options.seed,
                parallel=options.episodes,
                progress=False,
            )
            returns.append(result.returns)
        means = [score(each.mean()) for each in returns]
        low, high = interval(np.array(means))
        print(
            f"| {int(folder.name[5:]):,} | {' | '.join(f'{mean:.1f}' for mean in means)} "
            f"| {np.mean(means):.1f} [{low:.1f}, {high:.1f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main()
