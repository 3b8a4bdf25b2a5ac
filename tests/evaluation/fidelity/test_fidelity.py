"""Data sets with known faults: the measure for each fault detects it."""

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from locomotion_rows import env_of, recorded
from torch import Tensor

from pgdiff import Episodes, PgdiffError
from pgdiff.evaluation import Fidelity, fidelity
from pgdiff.evaluation.fidelity.report import HELD_OUT, spread_by_start
from pgdiff.plotting import fidelity_picture, marginals_picture

SMALL: dict[str, Any] = {"positions": 12, "rows": 20, "points": 400, "held_out": 0.3}


class Zero:
    """A policy about 0."""

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return (-0.5 * action.square() - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def changed(episodes: Episodes, **changes: Any) -> Episodes:
    fields: dict[str, Any] = episodes.fields()
    return Episodes.from_arrays(**(fields | changes))


@pytest.fixture(scope="module")
def real() -> Episodes:
    return recorded("halfcheetah", episodes=30, steps=60)


@pytest.fixture(scope="module")
def found(real: Episodes) -> Fidelity:
    source = np.random.default_rng(0)
    assert real.next_observations is not None
    spread = (real.next_observations - real.observations).std(axis=0)
    noise = 0.3 * spread * source.normal(size=real.observations.shape)
    data = {
        "fresh": recorded("halfcheetah", episodes=30, steps=60, seed=1),
        "copied": real,
        "blurred": changed(real, next_observations=real.next_observations + noise),
        "loud": changed(real, actions=3 * np.array(real.actions)),
        "one mode": recorded("halfcheetah", episodes=100, steps=5, seed=1),  # not yet moving fast
    }
    return fidelity(real, data, env=env_of("halfcheetah"), policies={"zero": Zero()}, **SMALL)


def test_each_fault_is_seen_where_it_should_be(found: Fidelity) -> None:
    columns = found.columns
    print(f"\n{found.table()}")
    assert next(iter(columns)) == HELD_OUT
    one = {name: column.steps.mean(1, 12) for name, column in columns.items() if column.steps}
    assert one[HELD_OUT] < 1e-3
    assert one["copied"] < 1e-3
    # The recording's noise in every next observation is 0.3 of its changes.
    assert one["blurred"] == pytest.approx(0.3, abs=0.05)
    assert one["loud"] > 0.3
    assert columns["copied"].copied > 0.5
    assert columns["fresh"].copied < 0.1
    assert columns[HELD_OUT].copied == pytest.approx(0.01, abs=0.01)
    # Neighbourhoods of few points are wide: Naeem et al. (2020) use coverage for that.
    assert columns["one mode"].coverage.recall < columns["fresh"].coverage.recall
    assert columns["one mode"].coverage.coverage < columns["fresh"].coverage.coverage - 0.3
    assert columns["loud"].kolmogorov_smirnov > 0.3 > columns["copied"].kolmogorov_smirnov
    assert columns["loud"].likelihood["zero"].mean < columns["copied"].likelihood["zero"].mean - 0.1


def test_it_is_json_a_table_and_pictures(found: Fidelity, real: Episodes, tmp_path: Path) -> None:
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(content["columns"]) == set(found.columns)
    assert len(content["columns"]["loud"]["steps"]["observation"]) == 12
    table = found.table()
    assert all(name in table for name in found.columns)
    assert "log-likelihood, zero" in table
    fidelity_picture(content, tmp_path / "one.png")
    marginals_picture({"real": real, "again": real}, tmp_path / "two.png", features=5)
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("one", "two"))


def test_without_a_simulator(real: Episodes, tmp_path: Path) -> None:
    found = fidelity(real, {"again": real}, **SMALL)
    assert not found.exact
    assert found.columns["again"].steps is None
    assert "| " in found.table()
    fidelity_picture(found.to_dict(), tmp_path / "one.png")


def test_spread_is_of_trajectories_from_like_starts() -> None:
    """For walks of unit steps from one place, the deviation after k steps is sqrt(k)."""
    source = np.random.default_rng(0)
    steps, count = 5, 400
    walks = np.cumsum(source.normal(size=(count, steps + 1, 3)), axis=1)
    walks = walks - walks[:, :1] + 0.01 * source.normal(size=(count, 1, 3))  # without ties
    episodes = Episodes.from_arrays(
        observations=walks.reshape(-1, 3),
        actions=np.zeros((count * (steps + 1), 1)),
        rewards=np.zeros(count * (steps + 1)),
        terminals=np.tile(np.arange(steps + 1) == steps, count),
    )
    unit = episodes.observations.std(axis=0).mean()
    found = spread_by_start(episodes, episodes, steps=steps, starts=400)
    # Five walks about their own mean: 4/5 of the variance.
    assert found == pytest.approx(math.sqrt(steps * 4 / 5) / unit, rel=0.08)
    assert math.isnan(spread_by_start(episodes, episodes, steps=40))


def test_spread_is_of_five_trajectories_however_few_there_are() -> None:
    """Five walks along different lines from one place: each is counted once."""
    lines = np.arange(5.0)[:, None, None] * np.arange(12)[None, :, None]
    episodes = Episodes.from_arrays(
        observations=lines.reshape(-1, 1),
        actions=np.zeros((60, 1)),
        rewards=np.zeros(60),
        terminals=np.tile(np.arange(12) == 11, 5),
    )
    unit = episodes.observations.std()
    found = spread_by_start(episodes, episodes, steps=11, starts=50)
    assert found == pytest.approx(11 * np.std(np.arange(5)) / unit, rel=1e-5)


def test_columns_are_of_equally_many_rows() -> None:
    """For equal laws, generated rows cover as much as held-out ones, for any number of rows."""
    source = np.random.default_rng(0)

    def rows(episodes: int) -> Episodes:
        count = 20 * episodes
        return Episodes.from_arrays(
            observations=source.normal(size=(count, 3)),
            actions=source.normal(size=(count, 1)),
            rewards=source.normal(size=count),
            terminals=np.arange(1, count + 1) % 20 == 0,
        )

    found = fidelity(rows(200), {"few": rows(30), "many": rows(400)}, held_out=0.2).columns
    held, few, many = (found[name].coverage for name in (HELD_OUT, "few", "many"))
    for one in (few, many):
        assert one.coverage == pytest.approx(held.coverage, abs=0.06)
        assert one.density == pytest.approx(held.density, rel=0.1)


def test_what_cannot_be_compared_is_named(real: Episodes) -> None:
    other = recorded("hopper", episodes=12, steps=20)
    with pytest.raises(PgdiffError, match=r"'other' must have as many .*17\. Got 11"):
        fidelity(real, {"other": other}, **SMALL)
    with pytest.raises(PgdiffError, match="`generated` must hold at least one"):
        fidelity(real, {}, **SMALL)
    with pytest.raises(PgdiffError, match="`generated` must not use the reserved name"):
        fidelity(real, {HELD_OUT: real}, **SMALL)
    with pytest.raises(PgdiffError, match="must have set_observation"):
        fidelity(real, {"again": real}, env=gym.make("Pendulum-v1"), **SMALL)
    with pytest.raises(PgdiffError, match=r"`validation` must be"):
        fidelity(real, {"again": real}, **(SMALL | {"held_out": 1.5}))
