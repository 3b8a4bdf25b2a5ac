"""Recorded segments that plans are compared with, from starts outside the goal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float, Int

from pgdiff.data import Episodes, SegmentDataset
from pgdiff.evaluation import checks
from pgdiff.evaluation.observations import goal_of
from pgdiff.planning import Planner
from pgdiff.training.learner import to_tensors
from pgdiff.validation import PgdiffError


@dataclass(frozen=True, eq=False, kw_only=True)
class Starts:
    """Recorded segments and the goals of their starts.

    Attributes:
        observations: `[starts, tokens, obs]` float32, the recorded way-points; the first is where
            plans begin.
        actions: `[starts, steps, act]` float32, the recorded actions, shaped as
            `Plan.actions`; None for a model that generates none.
        seeds: `[starts]`, seed of each start's reset, which draws its goal.
        goals: `[starts, goal]`, what the resets return; None where the planner takes none.
        places: `[starts, goal]`, goals of the resets, whoever is given them; None where there are
            none that are numbers alike.
        at_goal: starts that were passed over because the environment reports success there.
    """

    observations: Float[np.ndarray, "starts tokens obs"]
    actions: Float[np.ndarray, "starts steps act"] | None
    seeds: Int[np.ndarray, " starts"]
    goals: Float[np.ndarray, "starts goal"] | None
    places: Float[np.ndarray, "starts goal"] | None
    at_goal: int

    def __len__(self) -> int:
        return len(self.seeds)


def draw_starts(
    planner: Planner, env: gym.Env[Any, Any], episodes: Episodes, *, starts: int, seed: int
) -> Starts:
    """Draw recorded segments of a plan's length that begin outside the goal.

    Start number i belongs to the goal that the environment draws when it is reset with `seed + i`.
    A start counts as at the goal where one step without action reports success; where no success is
    reported, or the environment cannot be set to an observation, every start counts as outside.

    Args:
        planner: whose plans are compared with the segments.
        env: one environment.
        episodes: the recording.
        starts: how many; fewer where the recording has no more.
        seed: of the starts and of the goals.

    Raises:
        PgdiffError: if no episode is as long as a plan, or every start is at the goal.
    """
    layout = planner.model.layout
    fields = tuple(layout.slices)
    dataset = SegmentDataset(episodes, layout.horizon, layout.stride, fields=fields)
    order = np.random.default_rng(seed).permutation(len(dataset))
    settable = hasattr(env.unwrapped, "set_observation")
    # Spare segments take the place of those whose start is at the goal.
    order = order[: 20 * starts]
    first = dataset.index.rows(order)[0][:, 0]
    chosen: list[int] = []
    infos: list[dict[str, Any]] = []
    at_goal = 0
    number = 0
    while len(chosen) < starts and number < len(order):
        observation, info = checks.reset(env, seed + len(chosen))
        if settable and _reached(env, episodes.observations[first[number]]):
            at_goal += 1
        else:
            chosen.append(number)
            infos.append({**info, "goal": goal_of(planner, observation, info)})
        number += 1
    if not chosen:
        raise PgdiffError(
            "`episodes` must hold a segment that begins outside the goal. Got "
            f"{at_goal} segments that begin in it."
        )
    seeds = seed + np.arange(len(chosen))
    tokens = planner.model.tokens(to_tensors(dataset.batch(order[chosen]), torch.device("cpu")))
    segment = layout.segment(tokens)
    actions = segment.every_action
    return Starts(
        observations=segment.observations.numpy(),
        actions=None if actions is None else actions.numpy(),
        seeds=seeds,
        goals=checks.goals_of(infos, seeds.tolist(), env) if planner.wants_goal else None,
        places=_places(infos),
        at_goal=at_goal,
    )


def _places(infos: Sequence[dict[str, Any]]) -> Float[np.ndarray, "starts goal"] | None:
    if any(info["goal"] is None for info in infos):
        return None
    try:
        return np.stack([np.asarray(info["goal"], np.float64).reshape(-1) for info in infos])
    except (TypeError, ValueError):
        return None


def _reached(env: gym.Env[Any, Any], observation: np.ndarray) -> bool:
    """Whether the environment reports success one step without action from an observation."""
    task: Any = env.unwrapped
    task.set_observation(observation)
    space = env.action_space
    *_, info = env.step(np.zeros(space.shape or (), space.dtype))
    return bool(info.get("is_success", info.get("success", False)))
