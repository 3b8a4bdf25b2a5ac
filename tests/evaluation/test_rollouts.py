import re
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation import evaluate


class Noisy:
    """A stochastic agent whose noise for an episode comes from that episode's seed alone."""

    def initial_state(self, seeds: Any) -> list[np.random.Generator]:
        return [np.random.default_rng(seed) for seed in seeds]

    def predict(
        self, observation: np.ndarray, /, state: Any = None, **_: Any
    ) -> tuple[np.ndarray, Any]:
        noise = np.array([[generator.normal()] for generator in state])
        return observation[:, :1] + noise, state


@pytest.fixture
def noisy() -> Noisy:
    return Noisy()


def test_constant_agent_gets_the_hand_computed_numbers(make_env: Any, constant: Any) -> None:
    found = evaluate(constant, make_env, episodes=5, seed=3, progress=False)
    # Seeds 3..7: lengths 2, 3, 4, 2, 3; an action of 2 at steps 1, 2, 3, … pays 2, 4, 6, …
    assert found.lengths.tolist() == [2, 3, 4, 2, 3]
    assert found.returns.tolist() == [6.0, 12.0, 20.0, 6.0, 12.0]
    assert found.normalized_scores is not None and found.successes is not None
    assert found.normalized_scores.tolist() == [60.0, 120.0, 200.0, 60.0, 120.0]
    assert found.successes.tolist() == [False, True, True, False, True]
    assert found.plans == 5 * 4  # one batch of five for as long as the longest episode
    assert found.plans_per_second is not None and found.plans_per_second > 0
    assert 0 < found.agent_seconds <= found.seconds
    assert constant.deterministic == {True}


def test_episode_starts_are_passed_once_per_batch(make_env: Any, constant: Any) -> None:
    evaluate(constant, make_env, episodes=3, parallel=2, deterministic=False, progress=False)
    assert [starts.tolist() for starts in constant.starts] == [
        *([[True, True]] + 2 * [[False, False]]),  # seeds 0 and 1: two and three steps
        *([[True]] + 3 * [[False]]),  # seed 2: four steps
    ]
    assert constant.deterministic == {False}


def test_same_seed_same_results_and_another_seed_another(make_env: Any, noisy: Any) -> None:
    first, again, other = (
        evaluate(noisy, make_env, episodes=8, seed=seed, progress=False) for seed in (0, 0, 1)
    )
    assert np.array_equal(first.returns, again.returns)
    assert np.array_equal(first.returns[1:], other.returns[:-1])  # they share seven seeds
    assert first.returns[0] not in other.returns


def test_an_episode_does_not_depend_on_its_neighbours(make_env: Any, noisy: Any) -> None:
    together = evaluate(noisy, make_env, episodes=8, parallel=8, progress=False, record=8)
    for parallel in (1, 3, 50):
        split = evaluate(noisy, make_env, episodes=8, parallel=parallel, progress=False, record=8)
        assert np.array_equal(together.returns, split.returns)
        assert np.array_equal(together.lengths, split.lengths)
        for one, other in zip(together.trajectories, split.trajectories, strict=True):
            assert np.array_equal(one, other)


def test_recorded_trajectories_hold_first_and_last_observation(
    make_env: Any, constant: Any
) -> None:
    found = evaluate(constant, make_env, episodes=5, parallel=2, progress=False, record=3)
    assert [len(t) for t in found.trajectories] == [3, 4, 5]
    for trajectory in found.trajectories:
        assert trajectory[:, 1].tolist() == list(range(len(trajectory)))
        assert len(set(trajectory[:, 0])) == 1


def test_environments_that_share_and_rewrite_their_arrays(make_env: Any, noisy: Any) -> None:
    """Observations and goals of all environments are stored in two shared arrays."""

    class Goals(make_env):  # type: ignore[misc,valid-type]
        def reset(self, **settings: Any) -> Any:
            observation, _ = super().reset(**settings)
            return observation, {"goal": self.np_random.uniform(size=2)}

    class Sharing(Goals):
        seen, goal = np.zeros(2, np.float32), np.zeros(2)

        def reset(self, **settings: Any) -> Any:
            _, info = super().reset(**settings)
            self.goal[:] = info["goal"]
            return self.seen, {"goal": self.goal}

        def _observation(self) -> np.ndarray:
            self.seen[:] = super()._observation()
            return self.seen

    one, other = (
        evaluate(noisy, make, episodes=7, parallel=3, progress=False, record=7)
        for make in (Goals, Sharing)
    )
    assert np.array_equal(one.returns, other.returns)
    assert np.array_equal(one.goals, other.goals)  # type: ignore[arg-type]
    for first, second in zip(one.trajectories, other.trajectories, strict=True):
        assert np.array_equal(first, second)


def test_the_first_step_at_the_goal_is_kept(make_env: Any, constant: Any) -> None:
    found = evaluate(constant, make_env, episodes=5, seed=3, progress=False)
    assert found.steps_to_goal is not None  # of 2, 3, 4, 2, 3 steps; success at step 3
    np.testing.assert_array_equal(found.steps_to_goal, [np.nan, 3, 3, np.nan, 3])


class Conditioned(Noisy):
    """Keeps the values of the resets that it receives."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.condition_keys = keys
        self.given: list[Any] = []

    def initial_state(self, seeds: Any, condition: Any = None) -> Any:
        self.given.append(condition)
        return super().initial_state(seeds)


def test_an_agent_gets_the_values_of_the_resets_that_it_names(make_env: Any) -> None:
    class Random(make_env):  # type: ignore[misc,valid-type]
        def reset(self, **settings: Any) -> Any:
            observation, _ = super().reset(**settings)
            goal = self.np_random.uniform(size=2)
            return observation, {"goal": goal, "walls": np.outer(goal, goal), "mass": goal[0]}

    agent = Conditioned("goal", "walls", "mass")
    found = evaluate(agent, Random, episodes=5, parallel=3, seed=4, progress=False)
    expected = []
    for seed in range(4, 9):
        expected.append(Random().reset(seed=seed)[1]["goal"])
    shapes = [{name: value.shape for name, value in given.items()} for given in agent.given]
    assert shapes == [{"goal": (n, 2), "walls": (n, 2, 2), "mass": (n, 1)} for n in (3, 2)]
    goals = np.concatenate([given["goal"] for given in agent.given])
    np.testing.assert_array_equal(goals, np.float32(expected))
    np.testing.assert_array_equal(found.goals, expected)
    assert found.settings["goal"] == "from each reset"
    assert found.settings["condition_keys"] == ["walls", "mass"]

    other = Conditioned()
    again = evaluate(other, Random, episodes=5, parallel=3, seed=4, progress=False)
    assert other.given == [None, None]
    assert again.settings["goal"] is None and "reset_options" not in again.settings
    np.testing.assert_array_equal(again.goals, expected)  # kept nevertheless, for pictures


class Fields(gym.Env):
    """Observations in a nested Dict; never changes, ends after two steps."""

    observation_space = gym.spaces.Dict(
        {
            "arm": gym.spaces.Dict({"angle": gym.spaces.Box(-1, 1, (1,), np.float64)}),
            "desired_goal": gym.spaces.Box(-1, 1, (2,), np.float64),
        }
    )
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 2
        self.angle = self.np_random.uniform()
        return self.observation(), {}

    def step(self, action: np.ndarray) -> Any:
        self.left -= 1
        return self.observation(), 1.0, self.left == 0, False, {}

    def observation(self) -> Any:
        return {"arm": {"angle": np.array([self.angle])}, "desired_goal": np.array([0.5, -0.5])}


class OfFields:
    """States by a layout that it takes a Dict, and the place of the goal in it."""

    condition_keys = ("goal",)

    class observation_layout:
        goal = "desired_goal"

        @staticmethod
        def flatten(observation: Any) -> Any:
            return observation["arm"]["angle"], observation["desired_goal"]

    def initial_state(self, seeds: Any) -> None:
        return None

    def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
        self.seen = observation
        return observation["arm"]["angle"].astype(np.float32), None


def test_a_dict_of_observations_is_batched_array_by_array() -> None:
    agent = OfFields()
    found = evaluate(agent, Fields, episodes=3, progress=False, record=2)
    assert agent.seen["arm"]["angle"].shape == (3, 1)
    assert agent.seen["desired_goal"].shape == (3, 2)
    angles = [Fields().reset(seed=seed)[0]["arm"]["angle"] for seed in range(3)]
    np.testing.assert_array_equal(agent.seen["arm"]["angle"], angles)
    for trajectory, angle in zip(found.trajectories, angles, strict=False):
        np.testing.assert_array_equal(trajectory, [angle] * 3)


def test_a_user_defined_maze_without_reference_scores_has_no_score(
    make_env: Any, constant: Any
) -> None:
    class Unscored(make_env):  # type: ignore[misc,valid-type]
        @property
        def reference_scores(self) -> Any:
            raise ValueError("none")

        def normalized_score(self, total: float) -> float:
            return total / self.reference_scores[0]

    found = evaluate(constant, Unscored, episodes=2, progress=False)
    assert found.normalized_scores is None
    assert found.settings["reference_scores"] is None


def test_what_the_environment_does_not_offer_is_none(make_plain: Any) -> None:
    class Silent:
        def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
            return np.ones((len(observation), 1)), None

    found = evaluate(Silent(), make_plain, episodes=2, progress=False)
    assert found.normalized_scores is None
    assert found.successes is None
    assert found.steps_to_goal is None and found.goals is None
    assert found.plans is None and found.plans_per_second is None


def test_environments_are_closed_and_no_more_are_made_than_run_together(
    make_env: Any, constant: Any
) -> None:
    made = []

    def make() -> Any:
        made.append(make_env())
        return made[-1]

    evaluate(constant, make, episodes=7, parallel=3, progress=False)
    assert len(made) == 3 and all(env.closed for env in made)
    made.clear()
    constant.action = float("nan")
    with pytest.raises(PgdiffError, match="row 0"):
        evaluate(constant, make, episodes=2, progress=False)
    assert len(made) == 2 and all(env.closed for env in made)


def test_an_agent_for_other_spaces_is_refused_before_the_first_step(
    make_env: Any, constant: Any
) -> None:
    for attribute, value, message in (
        ("observation_shape", (4,), r"observations of shape \(4,\).*shape \(2,\)"),
        ("action_shape", (3,), r"actions of shape \(3,\).*shape \(1,\)"),
        ("observation_space", gym.spaces.Box(0, 1, (7,)), r"observations of shape \(7,\)"),
    ):
        setattr(constant, attribute, value)
        with pytest.raises(PgdiffError, match=message):
            evaluate(constant, make_env, episodes=1, progress=False)
        delattr(constant, attribute)
    assert constant.starts == []


def test_a_fitting_agent_is_let_through(make_env: Any, constant: Any) -> None:
    constant.observation_shape, constant.action_space = (2,), gym.spaces.Box(-10, 10, (1,))
    assert len(evaluate(constant, make_env, episodes=1, progress=False).returns) == 1


class Stepwise:
    """Plans at every third step of an episode; its state is the seeds and steps of the batch."""

    def __init__(self) -> None:
        self.plans_made = 0
        self.sizes: list[int] = []

    def initial_state(self, seeds: Any) -> tuple[Any, Any]:
        return np.array(seeds), np.zeros(len(seeds), int)

    def predict(self, observation: Any, state: Any, **_: Any) -> tuple[np.ndarray, Any]:
        seeds, steps = state
        assert len(observation) == len(seeds) and (observation[:, 1] == steps).all()
        self.sizes.append(len(seeds))
        self.plans_made += int((steps % 3 == 0).sum())
        return 0.1 * seeds[:, None] + observation[:, :1], (seeds, steps + 1)


class Leaving(Stepwise):
    def keep_rows(self, state: Any, rows: Any) -> Any:
        return tuple(part[rows] for part in state)


def test_ended_episodes_leave_the_batch_of_an_agent_that_can_let_them_go(make_env: Any) -> None:
    agent = Leaving()
    found = evaluate(agent, make_env, episodes=7, seed=1, parallel=5, progress=False, record=7)
    assert found.lengths.tolist() == [3, 4, 2, 3, 4, 2, 3]
    assert agent.sizes == [5, 5, 4, 2, 2, 2, 1]
    assert found.plans == sum(-(-length // 3) for length in found.lengths)

    class Staying(Stepwise):
        """Has no `keep_rows`: its batch stays whole."""

        def predict(self, observation: Any, state: Any, **_: Any) -> tuple[np.ndarray, Any]:
            steps = np.minimum(state[1], observation[:, 1]).astype(int)
            return super().predict(observation, (state[0], steps))

    staying = Staying()
    whole = evaluate(staying, make_env, episodes=7, seed=1, parallel=5, progress=False, record=7)
    assert staying.sizes == [5] * 4 + [2] * 3
    assert np.array_equal(found.returns, whole.returns)
    for one, other in zip(found.trajectories, whole.trajectories, strict=True):
        assert np.array_equal(one, other)


def test_goals_are_copies(make_env: Any, constant: Any) -> None:
    class Rewriting(make_env):  # type: ignore[misc,valid-type]
        """Has one array for the goal, and writes each next goal into it."""

        goal = np.zeros(1)

        def reset(self, **settings: Any) -> Any:
            observation, _ = super().reset(**settings)
            self.goal[:] = settings["seed"]
            return observation, {"goal": self.goal}

    found = evaluate(constant, Rewriting, episodes=4, parallel=2, progress=False)
    np.testing.assert_array_equal(found.goals, [[0], [1], [2], [3]])


def test_the_time_left_is_one_that_a_person_can_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Most of the time is spent in few steps, as with a planner; half of the episodes end early."""

    class Line(gym.Env):
        observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.left = 100 if (seed or 0) % 2 == 0 else 40
            return np.zeros(1), {}

        def step(self, action: Any) -> Any:
            self.left -= 1
            return np.zeros(1), 0.0, self.left == 0, False, {}

    class Slow:
        calls = 0

        def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
            time.sleep(0.3 if self.calls % 10 == 0 else 0.001)
            self.calls += 1
            return np.zeros((len(observation), 1)), None

    evaluate(Slow(), lambda: gym.wrappers.TimeLimit(Line(), 100), episodes=4, progress=True)
    shown = capsys.readouterr().err
    assert "evaluate" in shown and "?" not in shown and "280/280 steps" in shown
    found = re.findall(r"([\d.]+)/([\d.]+) steps \[(\d+):(\d+), (\d+):(\d+) left", shown)
    assert len(found) > 3
    for done, total, *clock in found:
        minutes, seconds, more, rest = map(int, clock)
        # The other steps take the mean time of all steps so far; the clock shows whole seconds.
        share, elapsed = (float(total) - float(done)) / float(done), 60 * minutes + seconds
        assert share * elapsed - 2 <= 60 * more + rest <= share * (elapsed + 1) + 1


def test_progress_is_shown_on_request(
    make_env: Any, constant: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(constant, make_env, episodes=1, progress=True)
    assert "evaluate" in capsys.readouterr().err


def test_options_are_passed_to_every_reset(constant: Any) -> None:
    class Optional(Fields):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float64)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            given.append((seed, options))
            super().reset(seed=seed)
            return np.zeros(1), {}

        def step(self, action: np.ndarray) -> Any:
            return np.zeros(1), *super().step(action)[1:]

    given: list[Any] = []

    def make_env() -> gym.Env:  # type: ignore[type-arg]
        return gym.wrappers.TimeLimit(Optional(), 5)

    options = {"goal_cell": np.array([1, 2])}
    found = evaluate(constant, make_env, episodes=2, seed=3, progress=False, reset_options=options)
    assert [seed for seed, _ in given] == [3, 4]
    assert all(one["goal_cell"].tolist() == [1, 2] for _, one in given)
    assert found.settings["reset_options"] == {"goal_cell": [1, 2]}
    with pytest.raises(PgdiffError, match="`reset_options`"):
        evaluate(constant, make_env, episodes=1, progress=False, reset_options=[1])  # type: ignore[arg-type]
