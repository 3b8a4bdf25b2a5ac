"""From a Minari data set of Dict observations to plans in its environment, by commands alone."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import gymnasium_robotics
import numpy as np
import pytest

from pgdiff.data import Episodes, ObservationLayout, write_minari

ENV = "gymnasium_robotics:PointMaze_UMaze-v3"


def recording(steps: int = 2000) -> Episodes:
    """A ball that drifts, in PointMaze's fields; a new goal every 100 steps."""
    rng = np.random.default_rng(0)
    gym.register_envs(gymnasium_robotics)
    env = gym.make("PointMaze_UMaze-v3")
    layout = ObservationLayout.from_space(env.observation_space)  # type: ignore[arg-type]
    env.close()
    place = np.cumsum(rng.normal(0, 0.03, (steps, 2)), axis=0)
    goal = np.repeat(rng.uniform(-1, 1, (steps // 100, 2)), 100, axis=0)
    episodes = Episodes.from_arrays(
        observations=np.concatenate([place, place, rng.normal(size=(steps, 2))], axis=1),
        actions=rng.uniform(-1, 1, (steps, 2)),
        rewards=(rng.uniform(size=steps) < 0.1).astype(float),
        terminals=np.zeros(steps, bool),
        timeouts=np.arange(1, steps + 1) % 100 == 0,
    )
    infos = {"goal": np.float32(goal), "next_goal": np.float32(goal)}
    return replace(episodes, observation_layout=layout, infos=infos)


def test_train_plan_and_evaluate(
    pgdiff, tiny: list[str], quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    write_minari(recording(), "toy/drift-v0")
    trained = pgdiff("train", "data=toy/drift-v0", f"task.id={ENV}", "out=run", *tiny)
    assert trained.code == 0, trained.err
    added = pgdiff("train", "recipe=goal_value", "base=run", *tiny)
    assert added.code == 0, added.err
    words = ["run=run", f"env={ENV}", "guide=goal_value", *quick]
    planned = pgdiff("plan", *words, "out=p", "seed=3")
    assert planned.code == 0, planned.err
    acted = pgdiff("evaluate", *words, "episodes=1", "record=0", "gallery=1", "out=e", "seed=3")
    assert acted.code == 0, acted.err
    found = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    with gym.make(ENV) as env:
        goal = env.reset(seed=3)[0]["desired_goal"]
    np.testing.assert_allclose(found["per_episode"]["goals"], [goal], atol=1e-6)
    assert (tmp_path / "e" / "failures.png").is_file()
    # An environment of other fields is refused.
    refused = pgdiff("evaluate", "run=run", "env=pgdiff_envs:maze2d-umaze-v1", "episodes=1")
    assert refused.code == 1 and "observations of shape [6]" in refused.error
