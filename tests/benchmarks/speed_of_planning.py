"""Milliseconds of a plan and of its parts."""

from contextlib import ExitStack
from statistics import median

import numpy as np
from timing import Clock, Row, seconds, timings

import pgdiff.model.trajectory_diffusion
from pgdiff.critics import TransitionValue
from pgdiff.data import Episodes
from pgdiff.diffusion import Guidance, NoiseSource
from pgdiff.guides import Value
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning import PLANNING, Planner

STEPS = 10


def planning(model: TrajectoryDiffusion, episodes: Episodes, *, repeats: int) -> list[Row]:
    """Measure plans for one environment, guided by a `TransitionValue`, on the CPU."""
    value = TransitionValue.from_episodes(episodes, stride=model.codec.spec.stride)
    observation = np.array(episodes.observations[0])
    rows = []
    for candidates in (1, 64):
        planner = Planner(
            model,
            Value(value),
            candidates=candidates,
            sampling=PLANNING.replace(steps=STEPS),
            device="cpu",
        )
        rows += _rows(planner, observation, repeats)
    return rows


def _rows(planner: Planner, observation: np.ndarray, repeats: int) -> list[Row]:
    setting = f"{planner.candidates} candidate{'s' if planner.candidates > 1 else ''}"
    spent = timings(lambda: planner.plan(observation), repeats=repeats)
    how = f"{setting}, {planner.sampling.steps} steps, guided"
    # A large difference shows that another process was running.
    rows = [
        Row("plan", f"{how}, median of {repeats}", 1e3 * median(spent), "ms"),
        Row("plan", f"{how}, fastest", 1e3 * min(spent), "ms"),
    ]
    for part, share in profile(planner, observation, repeats=repeats).items():
        rows.append(Row(f"  {part}", setting, 100 * share, "%"))
    return rows


def profile(planner: Planner, observation: np.ndarray, *, repeats: int) -> dict[str, float]:
    """Return the share of a plan's time in each of its parts; their sum is 1.

    Wall-clock time of the parts' functions, which on a CPU return after the computation.
    """
    sampling = pgdiff.model.trajectory_diffusion
    clock = Clock()
    watched = (
        (planner.model.network, "forward", "network forward"),
        (Guidance, "objective_and_gradient", "guide gradient"),
        (NoiseSource, "normal", "noise"),
        (sampling, "run", "sampling"),
        (sampling, "score", "scoring"),
    )
    with ExitStack() as stack:
        for owner, name, label in watched:
            stack.enter_context(clock.on(owner, name, label))
        planner.plan(observation)
        clock.spent.clear()
        whole = sum(seconds(lambda: planner.plan(observation)) for _ in range(repeats))
    spent = clock.spent
    # The sampling includes the three parts before it; the rest is the solver's time.
    inside = ("network forward", "guide gradient", "noise")
    sampled = spent.pop("sampling")
    parts = {name: spent[name] for name in inside}
    parts["solver, elementwise"] = sampled - sum(parts.values())
    parts["scoring"] = spent["scoring"]
    parts["rest"] = whole - sampled - spent["scoring"]
    return {name: value / whole for name, value in parts.items()}
