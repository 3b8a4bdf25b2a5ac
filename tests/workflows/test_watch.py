"""A watched planner acts as it would unwatched, and every plan is kept with its step."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pgdiff.planning import PlanMemory
from pgdiff.workflows.watch import Watched


class Every:
    """A planner that plans anew after `every` steps; a plan holds its number and its seed."""

    observation_shape = (1,)

    def __init__(self, every: int) -> None:
        self.every, self.plans_made, self.goals = every, 0, None
        self.model = SimpleNamespace(layout=SimpleNamespace(stride=2))

    def initial_state(self, seeds: Any, goals: Any = None) -> PlanMemory:
        self.goals = goals
        return PlanMemory.empty(seeds, tokens=3, observation=1)

    def predict(self, observation: Any, state: Any, start: Any, deterministic: bool) -> Any:
        due = (state.age < 0) | (state.age >= self.every)
        made = np.stack(
            [np.full((3, 1), 100.0 * s + n) for s, n in zip(state.seed, state.plans, strict=True)]
        )
        if due.any():
            state = state.with_plans(due, made[due].astype(np.float32))
            self.plans_made += int(due.sum())
        return observation, state._replace(age=state.age + 1)

    def keep_rows(self, state: PlanMemory, rows: Any) -> PlanMemory:
        return state.rows(rows)


def acted(watched: Watched, seeds: list[int], steps: int) -> None:
    state = watched.initial_state(seeds)
    for _ in range(steps):
        _, state = watched.predict(np.zeros((len(seeds), 1)), state)


@pytest.mark.parametrize("kept", [0, 1, 3, 9])
def test_each_plan_is_kept_once_over_batches(kept: int) -> None:
    planner: Any = Every(3)
    watched = Watched(planner, kept)
    acted(watched, [5, 6], 7)
    acted(watched, [7, 8], 7)
    assert watched.plans_made == 4 * 3
    for episode, seed in enumerate([5, 6, 7, 8]):
        followed = watched.followed(episode, steps=7)
        if episode >= kept:
            assert followed == [] and watched.plans(episode, steps=7) is None
            continue
        assert [step for step, _ in followed] == [0, 3, 6]
        assert [way[0, 0] for _, way in followed] == [100 * seed, 100 * seed + 1, 100 * seed + 2]
        plans = watched.plans(episode, steps=5)  # it ended earlier than its neighbours
        assert plans is not None
        assert [plan.observations[0, 0] % 100 for plan in plans] == [0, 0, 0, 1, 1]
        assert plans[0].stride == 2
        assert len(watched.actions(episode, steps=5)) == 5


def test_plans_go_to_their_episodes_when_rows_leave_the_batch() -> None:
    planner: Any = Every(1)
    watched = Watched(planner, 3)
    state = watched.initial_state([5, 6, 7, 8])
    for rows in ([0, 2, 3], [1, 2], [1]):  # of the batch: the seeds 5, 7, 8, then 7, 8, then 8
        _, state = watched.predict(np.zeros((len(state.age), 1)), state)
        state = watched.keep_rows(state, rows)
    assert state.seed.tolist() == [8]
    shown = [[way[0, 0] for _, way in watched.followed(i, steps=9)] for i in range(4)]
    assert shown == [[500, 501], [600], [700, 701, 702], []]


def test_goals_are_handed_on() -> None:
    planner: Any = Every(3)
    assert not Watched(planner, 1).wants_goal
    planner.wants_goal = True
    watched = Watched(planner, 1)
    assert watched.wants_goal
    watched.initial_state([0], np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(planner.goals, [[1.0, 2.0]])
