from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pgdiff.evaluation import evaluate
from pgdiff.validation import PgdiffError


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


def test_episode_starts_are_told_once_per_batch(make_env: Any, constant: Any) -> None:
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


@pytest.mark.parametrize("parallel", [1, 3, 50])
def test_an_episode_does_not_depend_on_its_neighbours(
    make_env: Any, noisy: Any, parallel: int
) -> None:
    together = evaluate(noisy, make_env, episodes=8, parallel=8, progress=False, record=8)
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


def test_what_the_environment_does_not_offer_is_none(make_plain: Any) -> None:
    class Silent:
        def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
            return np.ones((len(observation), 1)), None

    found = evaluate(Silent(), make_plain, episodes=2, progress=False)
    assert found.normalized_scores is None
    assert found.successes is None
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


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("observation_shape", (4,), r"observations of shape \(4,\).*shape \(2,\)"),
        ("action_shape", (3,), r"actions of shape \(3,\).*shape \(1,\)"),
        ("observation_space", gym.spaces.Box(0, 1, (7,)), r"observations of shape \(7,\)"),
    ],
)
def test_an_agent_for_other_spaces_is_refused(
    make_env: Any, constant: Any, attribute: str, value: Any, message: str
) -> None:
    setattr(constant, attribute, value)
    with pytest.raises(PgdiffError, match=message):
        evaluate(constant, make_env, episodes=1, progress=False)
    assert constant.starts == []


def test_a_fitting_agent_is_let_through(make_env: Any, constant: Any) -> None:
    constant.observation_shape, constant.action_space = (2,), gym.spaces.Box(-10, 10, (1,))
    assert len(evaluate(constant, make_env, episodes=1, progress=False).returns) == 1


def test_bad_arguments_are_named(make_env: Any, constant: Any) -> None:
    for name, value in {"episodes": 0, "parallel": 0, "seed": -1, "record": -1}.items():
        with pytest.raises(PgdiffError, match=f"`{name}`"):
            evaluate(constant, make_env, **{"episodes": 1, "progress": False, name: value})

    class Misshapen:
        def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
            return np.zeros((len(observation), 2)), None

    with pytest.raises(PgdiffError, match=r"shape \(3, 1\). Got shape \(3, 2\)"):
        evaluate(Misshapen(), make_env, episodes=3, progress=False)
    with pytest.raises(PgdiffError, match="single environment"):
        evaluate(
            constant,
            lambda: gym.vector.SyncVectorEnv([make_env]),
            episodes=1,
            progress=False,
        )

    class Named(type(make_env())):
        observation_space = gym.spaces.Dict({"here": gym.spaces.Box(0, 1, (2,))})

    with pytest.raises(PgdiffError, match="arrays"):
        evaluate(constant, Named, episodes=1, progress=False)


def test_progress_is_shown_on_request(
    make_env: Any, constant: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(constant, make_env, episodes=1, progress=True)
    assert "evaluate" in capsys.readouterr().err
