"""Train the recorder of the Walker2d experiments: a SAC, saved at several steps.

    python tests/benchmarks/recorder.py OUT [--task Walker2d-v5] [--ages 50000 120000] [--seed 0]

Stable-Baselines3's defaults on one thread; OUT/sac-<task>-<steps>.zip for every age.
"""

import argparse
import time
from pathlib import Path

import torch
from stable_baselines3 import SAC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="Walker2d-v5")
    parser.add_argument("--ages", type=int, nargs="+", default=[50_000, 120_000])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    agent = SAC("MlpPolicy", options.task, seed=options.seed, learning_starts=10_000, device="cpu")
    began = time.perf_counter()
    for age in sorted(options.ages):
        agent.learn(age - agent.num_timesteps, reset_num_timesteps=False)
        file = options.out / f"sac-{options.task}-{age}.zip"
        agent.save(file)
        print(f"{file} after {(time.perf_counter() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
