"""Distance between a plan's way-points and the simulator after the plan's own actions.

    python tests/benchmarks/reach.py RUN DATA [--plans 200] [--seed 0]

RUN is a finished run whose plans hold actions, of a maze that can be set to any observation.
"""

import argparse
from typing import Any

import gymnasium
import numpy as np

from pgdiff import load_episodes, load_planner
from pgdiff.runs.run import read_run

ARMS: dict[str, dict[str, Any]] = {
    "no guide": {"guide": "none"},
    "value, scale 30, through the denoiser": {"guide": {"scale": 30.0, "gradient_at": "denoiser"}},
    "value, scale 100, through the denoiser": {
        "guide": {"scale": 100.0, "gradient_at": "denoiser"}
    },
    "the same, lambda 0.95": {
        "guide": {"scale": 100.0, "gradient_at": "denoiser", "td_lambda": 0.95}
    },
    "value, scale 80, at x0": {"guide": {"scale": 80.0, "gradient_at": "x0"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    env = gymnasium.make(read_run(options.run).task["id"])
    env.reset(seed=0)
    task: Any = env.unwrapped
    recorded = load_episodes(options.data).observations
    rows = np.random.default_rng(options.seed).integers(len(recorded), size=options.plans)
    begin = np.asarray(recorded[rows], dtype=np.float32)

    def led(observation: np.ndarray, actions: np.ndarray) -> np.ndarray:
        task.set_observation(observation)
        for action in actions:
            observation = task.step(action)[0]
        return observation

    print("| | to the next way-point | missed by, way | velocity | the tenth way-point's, way |")
    for label, settings in ARMS.items():
        planner = load_planner(options.run, controller="actions", **settings)
        plans = planner.plan_batch(begin, seeds=range(options.plans))
        missed = np.array(
            [
                [
                    led(plan.observations[k], plan.actions[k * plan.stride : (k + 1) * plan.stride])
                    - plan.observations[k + 1]
                    for k in (0, 9)
                ]
                for plan in plans
            ]
        )
        way = [
            np.linalg.norm(plan.observations[1, :2] - plan.observations[0, :2]) for plan in plans
        ]
        near, far = np.linalg.norm(missed[..., :2], axis=-1).T
        velocity = np.linalg.norm(missed[:, 0, 2:], axis=-1)
        cells = (f"{np.median(x):.2f}" for x in (way, near, velocity, far))
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
