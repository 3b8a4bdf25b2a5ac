"""Rows against the simulator that made them, and against known faults."""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from locomotion_rows import env_of, recorded

from pgdiff import Episodes, PgdiffError
from pgdiff.evaluation.fidelity.simulator_error import (
    determines_state,
    error_units,
    replay_errors,
    step_errors,
)


def test_a_recording_agrees_with_its_simulator() -> None:
    for task, has_next in itertools.product(("hopper", "halfcheetah"), (True, False)):
        episodes = recorded(task)
        if not has_next:
            fields = episodes.fields()
            fields.pop("next_observations")
            episodes = Episodes.from_arrays(**fields)  # type: ignore[arg-type]
        chosen: dict[str, Any] = {"units": error_units(episodes), "positions": 10, "rows": 40}
        one = step_errors(env_of(task), episodes, **chosen)
        assert one.observation.max() < 1e-3
        assert one.reward.max() < 1e-3
        assert (one.terminal == 1).all()
        assert one.count[0] == 40
        whole = replay_errors(env_of(task), episodes, **chosen)
        # Starts in float32, and contacts that grow small differences.
        assert whole.observation.max() < 0.05
        assert whole.position.tolist() == list(range(1, 11))


def test_a_simulator_that_rewrites_its_observation() -> None:
    class Rewriting(gym.Wrapper):
        def step(self, action: Any) -> Any:
            observation, *rest = self.env.step(action)
            self.seen = getattr(self, "seen", observation)
            self.seen[:] = observation
            return self.seen, *rest

    episodes = recorded("hopper")
    found = [
        replay_errors(env, episodes, units=error_units(episodes), positions=5, rows=20).observation
        for env in (env_of("hopper"), Rewriting(env_of("hopper")))
    ]
    assert np.array_equal(*found)


def test_rows_that_do_not_tell_their_state_are_left_out() -> None:
    episodes = recorded("walker2d", size=1.0)
    env = env_of("walker2d")
    determined = determines_state(env, episodes, np.arange(episodes.steps))
    assert 0.1 < determined.mean() < 0.99
    found = step_errors(env, episodes, units=error_units(episodes), positions=10)
    print(
        f"\n{determined.mean():.2f} of the rows determine it; errors {found.observation.round(5)}"
    )
    assert np.nanmax(found.observation) < 1e-3
    assert found.count[-1] < found.count[0]


def test_errors_are_in_units_of_one_step_changes() -> None:
    episodes = recorded("halfcheetah")
    unit = error_units(episodes)
    fields: dict[str, Any] = episodes.fields()
    source = np.random.default_rng(0)
    off = source.normal(size=episodes.observations.shape)
    fields["next_observations"] = fields["next_observations"] + 0.5 * unit.scale * off
    fields["rewards"] = fields["rewards"] + 0.25 * unit.reward
    wrong = Episodes.from_arrays(**fields)
    found = step_errors(env_of("halfcheetah"), wrong, units=unit, positions=20)
    # 12 rows of 17 features at 20 positions: the root mean square within 4 standard errors.
    assert found.mean(1, 20) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2 * 12 * 17 * 20))
    assert found.reward == pytest.approx(np.full(20, 0.25), abs=1e-3)
    assert np.abs(found.observation - 0.5).max() < 6 * found.standard_error.mean()


def test_a_terminal_that_the_simulator_does_not_know_is_counted() -> None:
    episodes = recorded("hopper", steps=4)
    fields: dict[str, Any] = episodes.fields()
    last = episodes.ends - 1
    fields["terminals"] = fields["terminals"].copy()
    fields["timeouts"] = np.zeros_like(fields["timeouts"])
    fields["terminals"][last] = True
    found = step_errors(
        env_of("hopper"), Episodes.from_arrays(**fields), units=error_units(episodes), positions=4
    )
    assert found.terminal.tolist() == [1, 1, 1, 0]


def test_the_same_seed_compares_the_same_rows() -> None:
    episodes = recorded("halfcheetah")
    chosen: dict[str, Any] = {"units": error_units(episodes), "positions": 5, "rows": 4}
    env = env_of("halfcheetah")
    first, again, other = (step_errors(env, episodes, seed=s, **chosen) for s in (0, 0, 1))
    assert np.array_equal(first.observation, again.observation)
    assert not np.array_equal(first.observation, other.observation)


def test_what_cannot_be_reset_is_named() -> None:
    episodes = recorded("halfcheetah", episodes=2, steps=5)
    with pytest.raises(PgdiffError, match=r"`env` must have set_observation.*Pendulum"):
        step_errors(gym.make("Pendulum-v1"), episodes, units=error_units(episodes))
    with pytest.raises(PgdiffError, match="`positions` must be"):
        step_errors(env_of("halfcheetah"), episodes, units=error_units(episodes), positions=0)
    with pytest.raises(PgdiffError, match="must enclose a measured position"):
        step_errors(env_of("halfcheetah"), episodes, units=error_units(episodes), positions=3).mean(
            5, 9
        )
