"""Milliseconds of a plan, and where they go."""

from contextlib import ExitStack
from statistics import median

import numpy as np
from timing import Clock, Row, seconds, timings

import pgdiff.diffusion.sampler
import pgdiff.planning.planner
import pgdiff.sampled
from pgdiff.critics import TransitionValue
from pgdiff.data import Episodes
from pgdiff.diffusion import Guidance
from pgdiff.guides import Value
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning import Planner

STEPS = 10


def planning(model: TrajectoryDiffusion, episodes: Episodes, *, repeats: int) -> list[Row]:
    """Plans for one environment, guided by a `TransitionValue`, on the CPU."""
    value = TransitionValue.from_episodes(episodes, stride=model.layout.stride)
    observation = np.array(episodes.observations[0])
    rows = []
    for candidates in (1, 64):
        planner = Planner(
            model, guides=[Value(value)], candidates=candidates, steps=STEPS, device="cpu"
        )
        rows += _rows(planner, observation, repeats)
    return rows


def _rows(planner: Planner, observation: np.ndarray, repeats: int) -> list[Row]:
    setting = f"{planner.candidates} candidate{'s' if planner.candidates > 1 else ''}"
    spent = timings(lambda: planner.plan(observation), repeats=repeats)
    how = f"{setting}, {planner.steps} steps, guided"
    # Far apart, they tell that something else was running.
    rows = [
        Row("plan", f"{how}, median of {repeats}", 1e3 * median(spent), "ms"),
        Row("plan", f"{how}, fastest", 1e3 * min(spent), "ms"),
    ]
    for part, share in profile(planner, observation, repeats=repeats).items():
        rows.append(Row(f"  {part}", setting, 100 * share, "%"))
    return rows


def profile(planner: Planner, observation: np.ndarray, *, repeats: int) -> dict[str, float]:
    """Share of the time of a plan in each of its parts; together 1.

    Wall-clock time of the parts' functions, which on a CPU return when they are done.
    """
    sampler = pgdiff.diffusion.sampler
    clock = Clock()
    watched = (
        (planner.model.network, "forward", "network forward"),
        (Guidance, "energy_and_gradient", "guide gradient"),
        (sampler, "draw", "noise"),
        (pgdiff.sampled, "sample", "sampling"),
        (pgdiff.planning.planner, "score", "scoring"),
    )
    with ExitStack() as stack:
        for owner, name, label in watched:
            stack.enter_context(clock.on(owner, name, label))
        planner.plan(observation)
        clock.spent.clear()
        whole = sum(seconds(lambda: planner.plan(observation)) for _ in range(repeats))
    spent = clock.spent
    # The sampling holds the three parts before it: what is left of it is the solver's.
    inside = ("network forward", "guide gradient", "noise")
    sampling = spent.pop("sampling")
    parts = {name: spent[name] for name in inside}
    parts["solver, elementwise"] = sampling - sum(parts.values())
    parts["scoring"] = spent["scoring"]
    parts["rest"] = whole - sampling - spent["scoring"]
    return {name: value / whole for name, value in parts.items()}
