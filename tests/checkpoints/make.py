"""Make the checkpoint of a format; no test runs it.

    python tests/checkpoints/make.py FOLDER [--plan]

A model, a value and an inverse dynamics, each trained for a moment on a point mass in the plane,
and `plan.json`: their plan, which every later version must reproduce. `--plan` keeps the
three and writes `plan.json` again, after an intended change of plans: for example for format 1,
when guides at clean estimates began to get the first observation instead of its estimate.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from toys import fit, flat_model, flat_planner, walk

from pgdiff import InverseDynamics, TrajectoryDiffusion, TransitionValue
from pgdiff.data import ReturnCondition
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    IndependentLevels,
    LinearSchedule,
    MinSnrWeight,
    MixtureLevels,
    SequenceLevels,
    UniformSpacing,
    VPrediction,
)
from pgdiff.guides import Value

PLANNER = {"candidates": 3, "steps": 5, "seed": 7, "device": "cpu", "noise_device": "cpu"}
SETTINGS = {**PLANNER, "solver": DDIM(), "spacing": UniformSpacing()}
GUIDE = {"scale": 0.5, "transform": "log", "td_lambda": 0.7}
OBSERVATION = [0.8, -0.5, 0.1, 0.2]


def make(folder: Path) -> None:
    episodes = walk(episodes=60, length=40)
    model = flat_model(
        episodes,
        horizon=5,
        stride=4,
        denoiser=TransformerConfig(width=16, depth=1, heads=2, attention="causal"),
        noise_schedule=LinearSchedule(),
        prediction=VPrediction(),
        level_distribution=MixtureLevels(parts=(SequenceLevels(), IndependentLevels())),
        loss_weight=MinSnrWeight(),
        conditions=[ReturnCondition(discount=0.9)],
    )
    value = TransitionValue.from_episodes(episodes, stride=4, discount=0.9, width=16, depth=1)
    inverse = InverseDynamics.from_episodes(episodes, stride=4, width=16, depth=1)
    for name, learner in (("model", model), ("value", value), ("inverse_dynamics", inverse)):
        fit(learner, episodes, steps=500)
        learner.save_pretrained(folder / name)


def plan(folder: Path) -> None:
    model = TrajectoryDiffusion.from_pretrained(folder / "model", device="cpu")
    value = TransitionValue.from_pretrained(folder / "value", device="cpu")
    inverse = InverseDynamics.from_pretrained(folder / "inverse_dynamics", device="cpu")
    planner = flat_planner(model, guides=[Value(value, **GUIDE)], controller=inverse, **SETTINGS)
    guided = planner.plan(np.array(OBSERVATION))
    unguided = flat_planner(model, **SETTINGS).plan(np.array(OBSERVATION))
    action, _ = planner.predict(np.array(OBSERVATION))
    expected = {
        "observation": OBSERVATION,
        "planner": PLANNER,
        "guide": GUIDE,
        "candidates": guided.candidates.tolist(),
        "scores": guided.scores.tolist(),
        "best": guided.best,
        "unguided": unguided.candidates.tolist(),
        "action": action.tolist(),
    }
    (folder / "plan.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--plan", action="store_true", help="keep the networks; write plan.json again"
    )
    arguments = parser.parse_args()
    if not arguments.plan:
        make(arguments.folder)
    plan(arguments.folder)
