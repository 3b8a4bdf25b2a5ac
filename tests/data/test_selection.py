"""A selection of episodes acts like a separate recording, although it shares arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from toys import walk

from pgdiff import Episodes, GoalValue, InverseDynamics, SegmentValue, Tokens, TransitionValue
from pgdiff import TrajectoryDiffusion as Diffusion
from pgdiff.agents import IQL, TD3BC, Cloning, FittedQ
from pgdiff.core.registry import to_config
from pgdiff.core.validation import PgdiffError
from pgdiff.critics.td_targets import check_rewards
from pgdiff.data import GoalCondition, ReturnCondition
from pgdiff.data.selection import selected
from pgdiff.dynamics import DynamicsEnsemble

FIELDS = ("observations", "action_chunks", "rewards", "terminals")
SEGMENT = {"horizon": 4, "stride": 3}
LEARNERS: dict[str, Callable[[Episodes], Any]] = {
    "limits": lambda data: Diffusion.from_episodes(data, Tokens(fields=FIELDS, **SEGMENT)),
    "standard": lambda data: Diffusion.from_episodes(
        data, Tokens(normalizer="standard", **SEGMENT)
    ),
    "arctanh": lambda data: Diffusion.from_episodes(
        data,
        Tokens(fields=("observations", "actions"), normalizer="arctanh", **SEGMENT),
        conditions=[ReturnCondition(), GoalCondition()],
    ),
    "transition_value": lambda data: TransitionValue.from_episodes(data, stride=3),
    "segment_value": lambda data: SegmentValue.from_episodes(data, **SEGMENT),
    "goal_value": lambda data: GoalValue.from_episodes(data, stride=3),
    "inverse_dynamics": lambda data: InverseDynamics.from_episodes(data, stride=3),
    "ensemble": lambda data: DynamicsEnsemble.from_episodes(data, members=2),
    "iql": IQL.from_episodes,
    "td3_bc": TD3BC.from_episodes,
    "cloning": Cloning.from_episodes,
    "fitted_q": lambda data: FittedQ.from_episodes(
        data, policies=[Cloning.from_episodes(data, width=8, depth=1)]
    ),
}


def recording(*, glitch: bool) -> Episodes:
    """Six walks; the fourth has a glitch of the sensor, wild actions and another reward."""
    fields = {name: values.copy() for name, values in walk().fields().items()}
    if glitch:
        rows = slice(3 * 80, 4 * 80)
        fields["observations"][rows] *= 1000
        fields["actions"][rows] *= 10
        fields["rewards"][rows] = -7
    return Episodes.from_arrays(**fields)


def test_learners_are_fitted_to_the_selected_rows_only() -> None:
    selection = recording(glitch=True).select([0, 1, 2, 4, 5])
    alone = Episodes.from_arrays(**selection.fields())
    for name, fit in LEARNERS.items():
        assert to_config(fit(selection)) == to_config(fit(alone)), name


def test_rows_that_were_not_selected_are_not_returned() -> None:
    episodes = recording(glitch=True)
    for numbers in ([0], [1, 2], [0, 2, 5], range(6)):
        rows = np.concatenate([np.arange(80 * n, 80 * n + 80) for n in numbers])
        for field in ("observations", "actions", "rewards", "terminals", "timeouts"):
            values = selected(episodes.select(list(numbers)), field)
            assert np.array_equal(values, getattr(episodes, field)[rows])
    assert np.shares_memory(selected(episodes, "actions"), episodes.actions)
    with pytest.raises(PgdiffError, match="`name` must be one of"):
        selected(episodes, "next_observations")


def test_a_negative_reward_counts_where_it_was_selected() -> None:
    episodes = recording(glitch=True)
    check_rewards(episodes.select([0, 1, 2, 4, 5]))
    with pytest.raises(PgdiffError, match=r"-7.0 in row 240 of `rewards`"):
        check_rewards(episodes.select([0, 3]))
