"""Noisy and dropped observations."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation import NoisyObservations, evaluate


def episode(steps: int = 2000, *, seed: int | None = 3, **settings: Any) -> tuple[Any, Any]:
    """Return observed and true states of equal pushes."""
    seen, true = [], []
    env = NoisyObservations(
        gym.make("pgdiff_envs:maze2d-open-v0", max_episode_steps=steps + 1), **settings
    )
    plain = gym.make("pgdiff_envs:maze2d-open-v0", max_episode_steps=steps + 1)
    first, _ = env.reset(seed=seed)
    exact, _ = plain.reset(seed=seed)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        seen.append(first)
        true.append(exact)
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        first, reward, *_ = env.step(action)
        exact, expected, *_ = plain.step(action)
        assert reward == expected
    return np.array(seen), np.array(true)


def test_noise_has_the_deviations_that_are_asked_for() -> None:
    deviations = np.array([0.1, 0.2, 0.0, 0.5])
    seen, true = episode(noise=deviations)
    off = seen - true
    assert off.std(axis=0) == pytest.approx(deviations, rel=0.06)
    assert np.abs(off.mean(axis=0)).max() < 4 * 0.5 / np.sqrt(len(off))
    assert np.array_equal(seen[:, 2], true[:, 2])


def test_dropped_ones_are_the_last_or_nothing() -> None:
    for stale in (True, False):
        seen, true = episode(1000, dropped=0.3, stale=stale)
        lost = ~(seen == true).all(axis=1)
        assert not lost[0]
        assert lost.mean() == pytest.approx(0.3, abs=0.05)
        if stale:
            for place in np.flatnonzero(lost):
                assert np.array_equal(seen[place], seen[place - 1])
        else:
            assert np.isnan(seen[lost]).all()


def test_the_seed_decides() -> None:
    """This holds for both kinds together; the arrivals do not depend on `stale`."""
    settings = {"noise": 0.1, "dropped": 0.2}
    one, other = (episode(50, **settings)[0] for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, episode(50, seed=4, **settings)[0])
    gone = episode(50, **settings, stale=False)[0]
    present = ~np.isnan(gone).any(axis=1)
    assert np.array_equal(gone[present], one[present]) and not present.all()
    assert np.array_equal(*episode(50))  # without settings nothing is changed


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named() -> None:
    settings: Any
    for settings, message in (
        ({"noise": -0.1}, "`noise` must be a number of at least 0"),
        ({"noise": [0.1, 0.2]}, "`noise` must be"),
        ({"noise": float("nan")}, "`noise` must be"),
        ({"noise": "a"}, "`noise` must be"),
        ({"dropped": 1.0}, "`dropped` must be a number in"),
        ({"stale": "no"}, "`stale` must be true or false"),
    ):
        with pytest.raises(PgdiffError, match=message):
            episode(1, **settings)
    whole = gym.wrappers.TransformObservation(
        gym.make("pgdiff_envs:maze2d-umaze-v1"),
        lambda seen: seen.astype(np.uint8),
        gym.spaces.Box(0, 255, (4,), np.uint8),
    )
    for env in (gym.make("FrozenLake-v1"), whole):
        with pytest.raises(PgdiffError, match="`env` must have flat observations of floats"):
            NoisyObservations(env)


class Steady:
    """An agent that does nothing, and may accept missing observations."""

    def __init__(self, missing_level: float | None) -> None:
        self.missing_level = missing_level

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 0
    ) -> Any:
        return np.zeros((len(observation), 2), np.float32), None


def test_only_agents_that_are_ready_meet_what_is_missing() -> None:
    def make() -> NoisyObservations:
        env = gym.make("pgdiff_envs:maze2d-umaze-v1", max_episode_steps=20)
        return NoisyObservations(env, dropped=0.5, stale=False)

    found = evaluate(Steady(0.1), make, episodes=2, progress=False)
    assert found.lengths.tolist() == [20, 20]
    wrappers = found.settings["wrappers"]
    assert wrappers == {"NoisyObservations": {"noise": 0.0, "dropped": 0.5, "stale": False}}
    plain = gym.wrappers.TransformReward(make(), lambda reward: reward)
    several = NoisyObservations(plain, noise=np.array([0.1, 0.2, 0.0, 0.0]))
    found = evaluate(Steady(0.1), lambda: several, episodes=1, progress=False)
    wrappers = found.settings["wrappers"]
    assert wrappers["NoisyObservations"]["noise"] == [0.1, 0.2, 0.0, 0.0]
    assert wrappers["TransformReward"] == {"func": "function"}
    with pytest.raises(PgdiffError, match="observations must be finite"):
        evaluate(Steady(None), make, episodes=2, progress=False)
