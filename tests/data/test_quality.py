"""Statistics against NumPy's, and reports on recordings with known defects."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgdiff.data.quality as quality_module
from pgdiff.data import Episodes, ObservationLayout
from pgdiff.data.quality import episode_returns, field_statistics, jumps, quality, reward_shift


@settings(max_examples=30)
@given(rows=st.integers(1, 50), features=st.integers(1, 4), block=st.integers(1, 60))
def test_statistics_are_numpys(rows: int, features: int, block: int) -> None:
    values = np.random.default_rng(rows).normal(5, 2, size=(rows, features)).astype(np.float32)
    values[:, 0] = 3.0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quality_module, "_BLOCK_ROWS", block)
        statistics = field_statistics(values)
    wide = values.astype(np.float64)
    np.testing.assert_array_equal(statistics.low, wide.min(axis=0))
    np.testing.assert_array_equal(statistics.high, wide.max(axis=0))
    np.testing.assert_allclose(statistics.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, wide.std(axis=0), rtol=1e-9, atol=1e-12)
    assert statistics.constant == (list(range(features)) if rows == 1 else [0])


def test_returns_of_episodes(recording) -> None:
    fields = recording((4, 3))
    returns = episode_returns(Episodes.from_arrays(**fields))
    np.testing.assert_allclose(returns, [fields["rewards"][:4].sum(), fields["rewards"][4:].sum()])


def walks(lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Smooth walks that start at random points of a square."""
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    moves = rng.normal(0, 0.02, size=(steps, 2))
    moves = np.concatenate([moves, rng.normal(0, 0.3, size=(steps, 2))], axis=1)
    places = []
    for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        origin = np.concatenate([rng.uniform(-10, 10, size=2), np.zeros(2)])
        places.append(origin + moves[start : start + length].cumsum(axis=0))
    return {
        "observations": np.concatenate(places),
        "actions": rng.uniform(-1, 1, size=(steps, 2)),
        "rewards": rng.random(steps),
        "terminals": np.zeros(steps, np.bool_),
        "timeouts": np.isin(np.arange(1, steps + 1), np.cumsum(lengths)),
    }


def test_nothing_is_suspicious_in_a_sound_recording() -> None:
    report = quality(Episodes.from_arrays(**walks([200] * 40)))
    assert len(report.jumps) == 0
    assert (report.continuing_ends, report.ends) == (0, 39)
    assert (report.repeated_rows, report.duplicate_rows) == (0, 0)
    assert (report.actions_at_bounds <= 2 / 8000).all()
    assert report.reward_shift is None


def test_misplaced_ends_are_found() -> None:
    """The marks of D4RL's antmaze are one row away from the jumps (D4RL, GitHub #77)."""
    for length in (120, 500, 2000):
        fields = walks([length] * (20_000 // length))
        true = np.flatnonzero(fields["timeouts"])[:-1]
        fields["timeouts"] = np.roll(fields["timeouts"], 1)
        fields["timeouts"][0] = False
        report = quality(Episodes.from_arrays(**fields))
        share = len(np.intersect1d(report.jumps, true)) / len(true)
        print(f"\n{100 * share:.1f} % of {len(true)} misplaced ends report")
        assert share >= 0.95
        assert len(np.setdiff1d(report.jumps, true)) == 0
        assert report.continuing_ends >= 0.95 * report.ends


def test_blocks_find_the_same_jumps(monkeypatch) -> None:
    fields = walks([300] * 10)
    marked = np.zeros(3000, np.bool_)
    whole = jumps(fields["observations"], marked)
    monkeypatch.setattr(quality_module, "_BLOCK_ROWS", 7)
    assert np.array_equal(jumps(fields["observations"], marked), whole)
    assert whole.tolist() == list(range(299, 2999, 300))


def test_copies_are_counted() -> None:
    fields = walks([50, 50])
    for name in ("observations", "actions", "rewards"):
        fields[name][10] = fields[name][9]  # one after the other
        fields[name][50:60] = fields[name][20:30]  # far apart
    fields["rewards"][55] += 1
    report = quality(Episodes.from_arrays(**fields))
    assert report.repeated_rows == 1
    assert report.duplicate_rows == 10


def test_copies_against_a_set_of_rows() -> None:
    rng = np.random.default_rng(0)
    fields = walks([500])
    for name in ("observations", "actions", "rewards"):
        fields[name] = rng.integers(0, 2, size=fields[name].shape).astype(float)
    rows = np.concatenate(
        [fields["observations"], fields["actions"], fields["rewards"][:, None]], axis=1
    )
    report = quality(Episodes.from_arrays(**fields))
    assert report.duplicate_rows == 500 - len({tuple(row) for row in rows})
    assert report.repeated_rows == (rows[1:] == rows[:-1]).all(axis=1).sum()


def test_clipped_actions_show() -> None:
    fields = walks([1000])
    fields["actions"] = np.clip(fields["actions"] * [2.0, 1.0], -1, 1)
    share = quality(Episodes.from_arrays(**fields)).actions_at_bounds
    expected = (np.abs(fields["actions"][:, 0]) == 1).mean()
    assert share[0] == pytest.approx(expected) and share[1] <= 2 / 1000


def test_the_observation_that_a_reward_rates_is_found() -> None:
    for shift, with_layout in product((-1, 0, 1), (False, True)):
        find_rated_observation(shift, with_layout)


def find_rated_observation(shift: int, with_layout: bool) -> None:
    fields = walks([400] * 5)
    places = fields["observations"][:, :2]
    goal = np.repeat([places[start + 200] for start in range(0, 2000, 400)], 400, axis=0)
    near = np.linalg.norm(places - goal, axis=1) < 0.15
    fields["rewards"] = np.roll(near, -shift).astype(float)
    layout = None
    if with_layout:  # the position is not the first two features
        fields["observations"] = fields["observations"][:, [2, 3, 0, 1]]
        layout = ObservationLayout(
            fields=(("x", 2), ("y", 2)), goal=("desired_goal", 2), position=(2, 3)
        )
    episodes = Episodes.from_arrays(**fields, infos={"goal": goal}, observation_layout=layout)
    assert reward_shift(episodes) == shift


def test_other_rewards_have_no_shift() -> None:
    fields = walks([400] * 5)
    goal = np.zeros((2000, 2))
    for rewards in (np.zeros(2000), np.ones(2000), fields["rewards"], np.arange(2000) % 2):
        fields["rewards"] = rewards
        assert reward_shift(Episodes.from_arrays(**fields, infos={"goal": goal})) is None
    assert reward_shift(Episodes.from_arrays(**fields)) is None
    wide = {"goal": np.zeros((2000, 9))}
    assert reward_shift(Episodes.from_arrays(**fields, infos=wide)) is None


def test_the_smallest_recordings() -> None:
    for lengths in ([1], [1, 1, 1], [2], [3, 1]):
        report = quality(Episodes.from_arrays(**walks(lengths)))
        assert report.ends == len(lengths) - 1 and report.repeated_rows == 0
