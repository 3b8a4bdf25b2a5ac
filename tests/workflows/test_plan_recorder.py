"""A recorder does not change a planner's actions, and keeps every plan with its step."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from pgdiff.planning import PlannerState
from pgdiff.workflows.plan_recorder import PlanRecorder


class Every:
    """A planner that plans again after `every` steps; a plan holds its number and its seed."""

    observation_shape = (1,)

    def __init__(self, every: int) -> None:
        self.every, self.plans_made, self.condition = every, 0, None
        self.model = SimpleNamespace(codec=SimpleNamespace(spec=SimpleNamespace(stride=2)))

    def initial_state(self, seeds: Any, condition: Any = None) -> PlannerState:
        self.condition = condition
        return PlannerState.empty(seeds, tokens=3, observation=1)

    def predict(self, observation: Any, state: Any, start: Any, deterministic: bool) -> Any:
        due = (state.age < 0) | (state.age >= self.every)
        made = np.stack(
            [np.full((3, 1), 100.0 * s + n) for s, n in zip(state.seed, state.plans, strict=True)]
        )
        if due.any():
            state = state.with_plans(due, made[due].astype(np.float32))
            self.plans_made += int(due.sum())
        return observation, state._replace(age=state.age + 1)

    def keep_rows(self, state: PlannerState, rows: Any) -> PlannerState:
        return state.rows(rows)


def acted(recorder: PlanRecorder, seeds: list[int], steps: int) -> None:
    state = recorder.initial_state(seeds)
    for _ in range(steps):
        _, state = recorder.predict(np.zeros((len(seeds), 1)), state)


def test_each_plan_is_kept_once_over_batches() -> None:
    for kept in (0, 1, 3, 9):
        _check_kept(kept)


def _check_kept(kept: int) -> None:
    planner: Any = Every(3)
    recorder = PlanRecorder(planner, kept)
    acted(recorder, [5, 6], 7)
    acted(recorder, [7, 8], 7)
    assert recorder.plans_made == 4 * 3
    for episode, seed in enumerate([5, 6, 7, 8]):
        followed = recorder.followed(episode, steps=7)
        if episode >= kept:
            assert followed == [] and recorder.plans(episode, steps=7) is None
            continue
        assert [step for step, _ in followed] == [0, 3, 6]
        assert [way[0, 0] for _, way in followed] == [100 * seed, 100 * seed + 1, 100 * seed + 2]
        plans = recorder.plans(episode, steps=5)  # it ended earlier than the other episodes
        assert plans is not None
        assert [plan.observations[0, 0] % 100 for plan in plans] == [0, 0, 0, 1, 1]
        assert plans[0].stride == 2
        assert len(recorder.actions(episode, steps=5)) == 5


def test_plans_go_to_their_episodes_when_rows_leave_the_batch() -> None:
    planner: Any = Every(1)
    recorder = PlanRecorder(planner, 3)
    state = recorder.initial_state([5, 6, 7, 8])
    for rows in ([0, 2, 3], [1, 2], [1]):  # of the batch: the seeds 5, 7, 8, then 7, 8, then 8
        _, state = recorder.predict(np.zeros((len(state.age), 1)), state)
        state = recorder.keep_rows(state, rows)
    assert state.seed.tolist() == [8]
    shown = [[way[0, 0] for _, way in recorder.followed(i, steps=9)] for i in range(4)]
    assert shown == [[500, 501], [600], [700, 701, 702], []]


def test_conditions_are_passed_on() -> None:
    planner: Any = Every(3)
    assert PlanRecorder(planner, 1).condition_keys == ()
    planner.condition_keys = ("goal",)
    recorder = PlanRecorder(planner, 1)
    assert recorder.condition_keys == ("goal",)
    recorder.initial_state([0], {"goal": np.array([[1.0, 2.0]])})
    np.testing.assert_array_equal(planner.condition["goal"], [[1.0, 2.0]])
