"""Recorded segments with starts outside the goal, as a reference for plans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float, Int

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, SegmentDataset
from pgdiff.evaluation import checks
from pgdiff.evaluation.rollouts import reset_goal, reset_values
from pgdiff.planning import Planner
from pgdiff.training.learner import to_tensors
from pgdiff.trajectory import Segment


@dataclass(frozen=True, eq=False, kw_only=True)
class Starts:
    """Recorded segments and the conditions of their starts.

    Attributes:
        observations: `[starts, tokens, obs]` float32, the recorded way-points; plans start at the
            first.
        actions: `[starts, steps, act]` float32, the recorded actions in the shape of
            `Plan.actions`; None for a model without actions.
        seeds: `[starts]`, seed of each start's reset, which draws its goal.
        condition: values of the resets that are passed to the planner, `[starts, ...]` by name.
        places: `[starts, goal]`, goals of the resets, whether or not the planner takes them; None
            if a goal is missing or their shapes differ.
        at_goal: number of starts that were skipped because the environment reports success there.
    """

    observations: Float[np.ndarray, "starts tokens obs"]
    actions: Float[np.ndarray, "starts steps act"] | None
    seeds: Int[np.ndarray, " starts"]
    condition: Mapping[str, Float[np.ndarray, "starts ..."]]
    places: Float[np.ndarray, "starts goal"] | None
    at_goal: int

    def __len__(self) -> int:
        return len(self.seeds)


def draw_starts(
    planner: Planner, env: gym.Env[Any, Any], episodes: Episodes, *, starts: int, seed: int
) -> Starts:
    """Draw recorded segments of a plan's length that begin outside the goal.

    Start number i has the goal that the environment draws when it is reset with `seed + i`. A start
    is at the goal if one step with a zero action reports success. If the environment does not
    report success or cannot be set to an observation, every start counts as outside the goal.

    Args:
        planner: the planner whose plans are compared with the segments.
        env: one environment.
        episodes: the recording.
        starts: number of starts; fewer if the recording does not have enough.
        seed: seed of the starts and of the goals.

    Raises:
        PgdiffError: if no episode is as long as a plan, or every start is at the goal.
    """
    spec = planner.model.codec.spec
    dataset = SegmentDataset(episodes, spec.waypoints, spec.stride, fields=tuple(spec.sizes))
    order = np.random.default_rng(seed).permutation(len(dataset))
    settable = hasattr(env.unwrapped, "set_observation")
    # Spare segments replace segments that start at the goal.
    order = order[: 20 * starts]
    first = dataset.index.rows(order)[0][:, 0]
    chosen: list[int] = []
    infos: list[dict[str, Any]] = []
    at_goal = 0
    number = 0
    while len(chosen) < starts and number < len(order):
        observation, info = checks.reset(env, seed + len(chosen))
        if settable and _starts_at_goal(env, episodes.observations[first[number]]):
            at_goal += 1
        else:
            chosen.append(number)
            values = reset_values(planner, observation, info)
            infos.append({**values, "goal": reset_goal(planner, observation, info)})
        number += 1
    if not chosen:
        raise PgdiffError(
            "`episodes` must hold a segment that starts outside the goal. Got "
            f"{at_goal} segments that start in it. Use another recording."
        )
    seeds = seed + np.arange(len(chosen))
    batch = to_tensors(dataset.batch(order[chosen]), torch.device("cpu"))
    segment = Segment(
        stride=spec.stride,
        **{
            name: value[..., None] if value.ndim == 2 else value
            for name in spec.sizes
            for value in [getattr(batch, name)]
        },
    )
    actions = segment.every_action
    return Starts(
        observations=segment.observations.numpy(),
        actions=None if actions is None else actions.numpy(),
        seeds=seeds,
        condition=checks.stack_condition(infos, seeds.tolist(), env, planner.condition_keys),
        places=_stack_goals(infos),
        at_goal=at_goal,
    )


def _stack_goals(infos: Sequence[dict[str, Any]]) -> Float[np.ndarray, "starts goal"] | None:
    if any(info["goal"] is None for info in infos):
        return None
    try:
        return np.stack([np.asarray(info["goal"], np.float64).reshape(-1) for info in infos])
    except (TypeError, ValueError):
        return None


def _starts_at_goal(env: gym.Env[Any, Any], observation: np.ndarray) -> bool:
    """Return True if the environment reports success after a zero action from an observation."""
    task: Any = env.unwrapped
    task.set_observation(observation)
    space = env.action_space
    *_, info = env.step(np.zeros(space.shape or (), space.dtype))
    return bool(info.get("is_success", info.get("success", False)))
