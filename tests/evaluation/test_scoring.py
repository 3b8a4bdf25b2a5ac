"""Score, score with credit for staying and first touch; and cases without a meaning."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pgdiff.evaluation import aggregate, compare, comparison_table, evaluate, load_evaluation

LIMIT = 10
SCRIPT = {0: [4, 5, 9], 1: [10], 2: [], 3: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}
"""Steps at which the episode of each seed is at the goal."""


class Scripted(gym.Env):
    """At its goal at the steps of `SCRIPT`, for any action; a score is ten times the return."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
    touch_reward: float | None = 1.0
    moves = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.touches = 0, SCRIPT[seed]
        return np.zeros(1), {"goal": np.zeros(2)}

    def step(self, action):
        self.number += 1
        goal = np.full(2, float(self.moves and self.number > 5))
        reward = np.array([float(self.number in self.touches)])  # an array of one is a number
        return np.zeros(1), reward, False, False, {"goal": goal}

    def normalized_score(self, total):
        return np.array([10.0 * total])


class Still:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(observation), *self.shape)), state

    def __init__(self, *shape: int) -> None:
        self.shape = shape or (1,)


def scripted(**changes: Any) -> Any:
    kind = type("Scripted", (Scripted,), changes)
    return lambda: gym.wrappers.TimeLimit(kind(), LIMIT)


def test_the_three_scores_of_known_touches(tmp_path: Path) -> None:
    found = evaluate(Still(), scripted(), episodes=4, parallel=3, progress=False)
    assert found.returns.tolist() == [3, 1, 0, 10]
    np.testing.assert_allclose(found.normalized_scores, [30, 10, 0, 100])
    # From the first touch on, that step included, each of the ten steps is paid.
    np.testing.assert_allclose(found.scores_if_stay, [70, 10, 0, 100])
    np.testing.assert_array_equal(found.first_touch, [4, 10, np.nan, 1])
    content = json.loads(found.to_json(tmp_path / "evaluation.json").read_text())
    assert content["score_if_stay"]["mean"] == pytest.approx(45)
    low, high = content["score_if_stay"]["interval"]
    assert low < 45 < high
    touch = content["first_touch"]
    assert touch["mean"] == 5 and (touch["episodes"], touch["never"]) == (3, 1)
    assert content["per_episode"]["first_touch"] == [4, 10, None, 1]
    again = load_evaluation(tmp_path)
    assert again.summary() == found.summary() and again.notes == ()
    head, _, row, _ = found.table().splitlines()
    assert "score if stay [95 %]  first touch [95 %]" in head
    assert "45.0 [" in row and "5.0 [" in row and "], 1 never" in row


def test_they_are_compared_in_pairs_and_aggregated() -> None:
    first = evaluate(Still(), scripted(), episodes=4, progress=False)
    late = {seed: [step + 2 for step in steps if step < 9] for seed, steps in SCRIPT.items()}

    class Later(Scripted):
        def reset(self, **settings):
            result = super().reset(**settings)
            self.touches = late[settings["seed"]]
            return result

    second = evaluate(
        Still(), lambda: gym.wrappers.TimeLimit(Later(), LIMIT), episodes=4, progress=False
    )
    second.settings["env"] = first.settings["env"]
    np.testing.assert_array_equal(second.first_touch, [6, np.nan, np.nan, 3])
    touch = compare(second, first, metric="first_touch")
    assert touch.difference.value == 2 and touch.difference.low == touch.difference.high == 2
    assert touch.episodes == 2 and "that all arrive" in touch.pairing
    stay = compare(second, first, metric="score_if_stay")
    assert stay.difference.value == pytest.approx((-20 - 10 + 0 - 20) / 4)
    assert aggregate([first], metric="first_touch").mean.value == 5
    for number, run in enumerate((first, second)):
        run.settings["training_seed"] = number
    both = aggregate([first, second], metric="first_touch")
    assert both.mean.value == pytest.approx((5 + 4.5) / 2)
    assert both.mean.low < both.mean.value < both.mean.high
    assert (both.episodes, both.never) == (5, 3) and "3 more never arrive" in str(both)
    with pytest.raises(ValueError, match="only if every run touches the goal"):
        first.first_touch[:] = np.nan
        aggregate([first], metric="first_touch")


class Twice(gym.Wrapper):
    """Two steps in one, with the rewards of both."""

    def step(self, action):
        first = self.env.step(action)
        second = self.env.step(action)
        return (second[0], first[1] + second[1], *second[2:])


def test_the_columns_are_empty_where_a_touch_has_no_meaning() -> None:
    for make, scored, reason in (
        (scripted(touch_reward=None), True, "has no fixed reward"),
        (scripted(moves=True), True, "the goal moves within an episode"),
        (lambda: Twice(scripted()()), True, "several steps in one"),
        (
            lambda: gym.wrappers.TransformReward(scripted()(), lambda reward: 0.5 * reward),
            False,
            "a wrapper changes the rewards",
        ),
    ):
        found = evaluate(Still(), make, episodes=4, progress=False)
        assert found.scores_if_stay is None and found.first_touch is None
        assert (found.normalized_scores is not None) == scored
        assert any(reason in note for note in found.notes)
        text = comparison_table({"a": found})
        assert reason in text and "first touch" in text.splitlines()[0]
        assert text.splitlines()[2].split()[-4:-2] == ["-", "-"]
        assert found.summary()["first_touch"] is None


def moved() -> Any:
    env = gym.make("pgdiff_envs:maze2d-umaze-v1")
    env.unwrapped.set_goal((3.0, 1.0))  # type: ignore[attr-defined]
    return env


class Paid(gym.Wrapper):
    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return (observation, reward + 0.01, *rest)


MAZE, HOPPER = "pgdiff_envs:maze2d-umaze-v1", "pgdiff_envs:hopper-v5"


def test_a_task_that_was_changed_has_no_score_under_its_id() -> None:
    for make, reason in (
        (lambda: gym.make(MAZE, max_episode_steps=900), "of 300 steps, and the time limit is 900"),
        (lambda: gym.wrappers.TimeLimit(gym.make(MAZE), 20), "the time limit is 20"),
        (lambda: gym.make(MAZE, reward="dense"), "are not valid for a changed reward"),
        (lambda: gym.make(MAZE, layout="open"), "are not valid for a changed layout"),
        (lambda: gym.make(MAZE, random_goal=True), "a changed random_goal"),
        (moved, "are not valid for a changed goal"),
        (lambda: Paid(gym.make(MAZE)), "a wrapper changes the rewards"),
        (lambda: gym.make(HOPPER, max_episode_steps=30), "of 1000 steps"),
        (lambda: gym.make(HOPPER, healthy_reward=2.0), "a changed healthy_reward"),
        (lambda: gym.wrappers.TransformReward(gym.make(HOPPER), lambda r: 2 * r), "a wrapper"),
    ):
        env: Any = make()
        agent = Still(*env.action_space.shape)
        found = evaluate(agent, make, episodes=1, progress=False)
        assert found.normalized_scores is None and found.scores_if_stay is None
        assert any(reason in note for note in found.notes), found.notes
        registered = gym.spec(env.spec.id)
        changed = env.spec.max_episode_steps != registered.max_episode_steps
        changed |= bool(set(env.spec.kwargs) - {"goal_steps"} - set(registered.kwargs))
        if changed:  # another task, for tables and comparisons
            assert " with {" in found.settings["env"] and found.settings["env_options"]
    for task in (MAZE, HOPPER):
        env = gym.make(task)
        agent = Still(*env.action_space.shape)
        found = evaluate(agent, lambda task=task: gym.make(task), episodes=1, progress=False)
        assert found.normalized_scores is not None and found.settings["env"] == env.spec.id
