"""The rest of a plan, against interpolation in time and against loops over single steps."""

import numpy as np

from pgdiff.planning.replanning import shift_plans

RNG = np.random.default_rng(0)


def test_way_points_are_those_of_the_plan_as_a_line_in_time() -> None:
    for stride in (1, 3, 10):
        check_line(stride)


def check_line(stride: int) -> None:
    plans = RNG.normal(size=(7, 5, 4)).astype(np.float32)
    age = np.array([0, 1, stride, 2 * stride + 1, 4 * stride - 1, 4 * stride, 9 * stride])
    moved = shift_plans(plans, None, age, stride)
    times = stride * np.arange(5)
    for plan, then, left in zip(plans, age, moved.observations, strict=True):
        for feature in range(4):
            # np.interp holds the last value past the end, as a plan does.
            line = np.interp(times + then, times, plan[:, feature])
            np.testing.assert_allclose(left[:, feature], line, atol=1e-6)
    assert moved.actions is None and moved.exists.all()
    assert moved.observations.dtype == np.float32


def test_a_straight_line_stays_that_line() -> None:
    """Its points move along it, up to its end."""
    start, velocity = np.array([1.0, -2.0]), np.array([0.25, 0.5])
    line = start + velocity * (4 * np.arange(8))[:, None]
    for age in (0, 1, 4, 11, 12):
        (left,) = shift_plans(line[None], None, np.array([age]), 4).observations
        inside = 4 * np.arange(8) + age <= 28
        expected = start + velocity * (4 * np.arange(8) + age)[:, None]
        np.testing.assert_allclose(left[inside], expected[inside], atol=1e-12)
        assert (left[~inside] == line[-1]).all()


def test_whole_tokens_are_shifted_exactly() -> None:
    plans = RNG.normal(size=(9, 6, 3)).astype(np.float32)
    for tokens in range(9):
        left = shift_plans(plans, None, np.full(9, tokens * 7), 7).observations
        kept = max(6 - tokens, 0)
        assert np.array_equal(left[:, :kept], plans[:, tokens:])
        assert np.array_equal(left[:, kept:], plans[:, -1:].repeat(6 - kept, axis=1))


def test_actions_are_those_of_the_steps_that_are_left() -> None:
    for tokens, stride in ((4, 3), (5, 1)):
        check_actions(tokens, stride)


def check_actions(tokens: int, stride: int) -> None:
    steps = tokens * stride
    actions = RNG.normal(size=(steps + 3, steps, 2)).astype(np.float32)
    plans = np.zeros((steps + 3, tokens, 4), np.float32)
    left = shift_plans(plans, actions, np.arange(steps + 3), stride).actions
    assert left is not None
    for age in range(steps + 3):
        for step in range(steps):
            assert np.array_equal(left[age, step], actions[age, min(age + step, steps - 1)])


def test_one_action_a_token_moves_with_its_token() -> None:
    """Tokens three steps apart hold the action at their row, which is used for three steps."""
    actions = RNG.normal(size=(10, 4, 2)).astype(np.float32)
    left = shift_plans(
        np.zeros((10, 4, 4), np.float32), actions, np.arange(10), 3, action_stride=3
    ).actions
    assert left is not None
    for age in range(10):
        for token in range(4):
            assert np.array_equal(left[age, token], actions[age, min(age // 3 + token, 3)])


def test_environments_without_a_plan_are_marked_and_nothing_is_changed() -> None:
    plans = RNG.normal(size=(3, 4, 2)).astype(np.float32)
    actions = RNG.normal(size=(3, 8, 2)).astype(np.float32)
    for array in (plans, actions):
        array.setflags(write=False)
    left = shift_plans(plans, actions, np.array([-1, 0, 3]), 2)
    assert left.exists.tolist() == [False, True, True]
    assert np.array_equal(left.observations[1], plans[1])
