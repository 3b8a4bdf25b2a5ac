"""A selection of episodes is a recording of its own, though it shares the arrays of another."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from toys import walk

from pgdiff import Episodes, GoalValue, InverseDynamics, SegmentValue, TransitionValue
from pgdiff import TrajectoryDiffusion as Diffusion
from pgdiff.agents import IQL, TD3BC, Cloning, FittedQ
from pgdiff.critics.checks import check_rewards
from pgdiff.data import GoalCondition, ReturnCondition
from pgdiff.data.selection import selected
from pgdiff.dynamics import DynamicsEnsemble
from pgdiff.registry import to_config
from pgdiff.validation import PgdiffError

FIELDS = ("observations", "action_chunks", "rewards", "terminals")
SEGMENT = {"horizon": 4, "stride": 3}
LEARNERS: dict[str, Callable[[Episodes], Any]] = {
    "limits": lambda data: Diffusion.from_episodes(data, fields=FIELDS, **SEGMENT),
    "standard": lambda data: Diffusion.from_episodes(data, normalizer="standard", **SEGMENT),
    "arctanh": lambda data: Diffusion.from_episodes(
        data,
        fields=("observations", "actions"),
        normalizer="arctanh",
        conditions=[ReturnCondition(), GoalCondition()],
        **SEGMENT,
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


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_is_fitted_to_the_selected_rows_alone(name: str) -> None:
    kept = [0, 1, 2, 4, 5]
    fields = recording(glitch=True).select(kept).fields()
    alone = Episodes.from_arrays(**fields)
    part = LEARNERS[name](recording(glitch=True).select(kept))
    assert to_config(part) == to_config(LEARNERS[name](alone))


def test_rows_that_were_not_selected_are_not_returned() -> None:
    episodes = recording(glitch=True)
    for numbers in ([0], [1, 2], [0, 2, 5], range(6)):
        rows = np.concatenate([np.arange(80 * n, 80 * n + 80) for n in numbers])
        for field in ("observations", "actions", "rewards", "terminals", "timeouts"):
            found = selected(episodes.select(list(numbers)), field)
            assert np.array_equal(found, getattr(episodes, field)[rows])
    assert np.shares_memory(selected(episodes, "actions"), episodes.actions)
    with pytest.raises(PgdiffError, match="`name` must be one of"):
        selected(episodes, "next_observations")


def test_a_negative_reward_counts_where_it_was_selected() -> None:
    episodes = recording(glitch=True)
    check_rewards(episodes.select([0, 1, 2, 4, 5]))
    with pytest.raises(PgdiffError, match=r"-7.0 in row 240 of `rewards`"):
        check_rewards(episodes.select([0, 3]))
