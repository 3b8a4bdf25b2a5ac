"""Recordings of several agents and noise levels, like D4RL's locomotion data sets."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from pgdiff.agents.sb3.live import of_raw_observations
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import PgdiffError, check_positive_int, check_seed, user_path
from pgdiff.evaluation.checks import check_spaces
from pgdiff.evaluation.time_limits import check_limited
from pgdiff.workflows.recording.mix import Mix, Part
from pgdiff.workflows.recording.noisy_agent import NoisyAgent
from pgdiff.workflows.recording.recorder import Agent, Recording, check_new
from pgdiff.workflows.recording.vector_recorder import record_lockstep

__all__ = ["Mix", "NoisyAgent", "Part", "RecordedPart", "collect_mix", "episode_returns"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedPart:
    """Summary of a recorded part of a mix.

    Attributes:
        agent: index of the agent, from 0.
        noise: standard deviation of the noise on its actions.
        deterministic: True if the agent used its mean action.
        rows: number of rows.
        returns: [episodes], undiscounted returns of the complete episodes.
    """

    agent: int
    noise: float
    deterministic: bool
    rows: int
    returns: Float[np.ndarray, " episodes"]


def collect_mix(
    env: gymnasium.Env[Any, Any],
    path: str | os.PathLike[str],
    *,
    agents: Sequence[Agent],
    mix: Mix,
    steps: int,
    seed: int,
    names: Sequence[str] | None = None,
    parallel: int = 16,
    progress: bool = True,
    overwrite: bool = False,
) -> list[RecordedPart]:
    """Record the parts of a mix, one after the other, in D4RL's HDF5 fields.

    Every part begins with a reset and consists of complete episodes except for its last one, which
    is cut at the end of the part and marked as a timeout. `rewards[t]` is the reward of the step
    from row t, and `next_observations[t]` its resulting observation. The file is written
    atomically. Its attributes hold the environment's id, the seed, the mix, and as JSON under
    `parts` the agent, noise, rows, complete episodes and mean return of each part.

    Args:
        env: environment with flat observation and action spaces and a time limit.
        path: the HDF5 file to write.
        agents: agents with `predict`, ordered from worst to best.
        mix: the parts.
        steps: total number of rows.
        seed: seed of starts, noise and stochastic agents; equal seeds give equal bytes.
        names: names of the agents in the file; by default the names of their classes.
        parallel: number of environments that step together (copies made from `env.spec`) to speed
            up `predict`; an environment without a spec runs alone. The rows do not depend on it,
            except for the rounding of networks and the draws of stochastic agents.
        progress: show a progress bar.
        overwrite: replace an existing file.

    Returns:
        A summary of each part.

    Raises:
        PgdiffError: an argument is out of range, the file exists, an agent does not fit the
            environment, or a value is not finite.
    """
    steps = check_positive_int("steps", steps)
    seed = check_seed("seed", seed)
    parallel = check_positive_int("parallel", parallel)
    path = user_path(path)
    check_new(path, overwrite=overwrite)
    names = [type(agent).__name__ for agent in agents] if names is None else list(names)
    if not agents or len(names) != len(agents):
        raise PgdiffError(
            "`agents` must hold at least one agent, and `names` one name per agent. "
            f"Got {len(agents)} agents and {len(names)} names."
        )
    check_limited(env, name="env")
    agents = [of_raw_observations(agent, env) for agent in agents]
    recording = Recording(env, steps)
    _check_agents(agents, names, env)
    plan = [(part.index(len(agents)), part.noise_of(len(agents)), part) for part in mix.parts]
    recorded: list[RecordedPart] = []
    start = 0
    with (
        seeded_torch(seed=seed),
        tqdm(total=steps, desc="recording", unit="step", disable=not progress) as bar,
        _copies(env, parallel - 1) as copies,
    ):
        for stop, (index, noise, part) in zip(mix.stops(steps), plan, strict=True):
            draws = np.random.default_rng([seed, len(recorded)])
            acting = NoisyAgent(
                agents[index],
                action_space=env.action_space,  # type: ignore[arg-type]
                noise=noise,
                seed=int(draws.integers(2**63)),
                deterministic=part.deterministic,
            )
            whole = record_lockstep(
                [env, *copies], acting, recording, start=start, stop=stop, starts=draws, bar=bar
            )
            ended = (recording.terminals | recording.timeouts)[start:stop]
            recorded.append(
                RecordedPart(
                    agent=index,
                    noise=noise,
                    deterministic=part.deterministic,
                    rows=stop - start,
                    returns=episode_returns(recording.rewards[start:stop], ended)[:whole],
                )
            )
            start = stop
    parts = json.dumps([_describe_part(part, names) for part in recorded])
    recording.write(
        path, {"reward_of": "transition", "seed": seed, "mix": mix.name, "parts": parts}
    )
    return recorded


def _check_agents(
    agents: Sequence[Agent], names: Sequence[str], env: gymnasium.Env[Any, Any]
) -> None:
    """Raise if an agent has no method `predict` or does not fit the environment."""
    for name, agent in zip(names, agents, strict=True):
        if not callable(getattr(agent, "predict", None)):
            raise PgdiffError(f"`agents` must have a method `predict`. '{name}' has none.")
        try:
            check_spaces(agent, env)
        except PgdiffError as error:
            raise PgdiffError(f"'{name}': {error}") from error


def _describe_part(part: RecordedPart, names: Sequence[str]) -> dict[str, Any]:
    """Return the summary of a part that the file stores."""
    return {
        "agent": names[part.agent],
        "noise": part.noise,
        "deterministic": part.deterministic,
        "rows": part.rows,
        "episodes": len(part.returns),
        "mean_return": float(part.returns.mean()) if len(part.returns) else None,
    }


@contextmanager
def _copies(env: gymnasium.Env[Any, Any], count: int) -> Iterator[list[gymnasium.Env[Any, Any]]]:
    """Provide copies of an environment with a spec, and close them afterwards."""
    with ExitStack() as stack:
        copies: list[gymnasium.Env[Any, Any]] = []
        for _ in range(count if env.spec is not None else 0):
            copies.append(gymnasium.make(env.spec))  # type: ignore[arg-type]
            stack.callback(copies[-1].close)
        yield copies


def episode_returns(
    rewards: Float[np.ndarray, " rows"], ended: Bool[np.ndarray, " rows"]
) -> Float[np.ndarray, " episodes"]:
    """Return the undiscounted returns of the episodes whose last rows are marked in `ended`."""
    sums = np.cumsum(rewards, dtype=np.float64)[np.flatnonzero(ended)]
    returns: np.ndarray = np.diff(sums, prepend=0.0)
    return returns
