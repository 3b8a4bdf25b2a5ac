"""Recordings mixed of several agents and noise levels, as D4RL's locomotion data sets are."""

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

from pgdiff.agents.live import of_raw_observations
from pgdiff.evaluation.checks import check_fit
from pgdiff.evaluation.limits import check_limited
from pgdiff.pretrained import seeded_torch
from pgdiff.validation import PgdiffError, check_positive_int, check_seed, user_path
from pgdiff.workflows.lockstep import record_lockstep
from pgdiff.workflows.noisy_agent import NoisyAgent
from pgdiff.workflows.parts import Mix, Part
from pgdiff.workflows.recording import Agent, Recording, check_new

__all__ = ["Mix", "NoisyAgent", "Part", "RecordedPart", "collect_mix", "episode_returns"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedPart:
    """What became of a part.

    Attributes:
        agent: which of the agents, from 0.
        noise: on its actions.
        deterministic: whether the agent was asked for its mean action.
        rows: of the recording.
        returns: [episodes], undiscounted, of the whole episodes; the last one may be cut.
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

    Every part begins with a reset and consists of whole episodes but for its last one, which is cut
    and marked as a timeout where the part's rows end. `rewards[t]` is that of the step from row t,
    `next_observations[t]` what it led to. The file appears whole or not at all. Its attributes tell
    the environment's id, the seed, the mix, and as JSON under `parts` each one's agent, noise,
    rows, whole episodes and mean return.

    Args:
        env: with flat observation and action spaces, and a time limit.
        path: the HDF5 file to write.
        agents: from worst to best; each acts by `predict`.
        mix: the parts.
        steps: rows to record in all.
        seed: of starts, noise and stochastic agents; the same seed gives the same bytes.
        names: what the file calls the agents; by default their classes.
        parallel: environments that step together, copies by `env.spec`, for the speed of `predict`;
            an environment without a spec is alone. The rows do not depend on it but for the
            rounding of networks, which varies with the batch, and the draws of stochastic agents.
        progress: whether to show a progress bar.
        overwrite: whether an existing file may be replaced.

    Returns:
        What was recorded, part by part.

    Raises:
        PgdiffError: an argument is out of range, the file exists, an agent does not fit the
            environment, or one of them gives what is not finite.
    """
    steps = check_positive_int("steps", steps)
    seed = check_seed("seed", seed)
    parallel = check_positive_int("parallel", parallel)
    path = user_path(path)
    check_new(path, overwrite=overwrite)
    names = [type(agent).__name__ for agent in agents] if names is None else list(names)
    if not agents or len(names) != len(agents):
        raise PgdiffError(
            "`agents` must be at least one, with one of `names` each. "
            f"Got {len(agents)} and {len(names)} names."
        )
    check_limited(env, name="env")
    agents = [of_raw_observations(agent, env) for agent in agents]
    recording = Recording(env, steps)
    for name, agent in zip(names, agents, strict=True):
        if not callable(getattr(agent, "predict", None)):
            raise PgdiffError(f"`agents` must have `predict`. '{name}' has none.")
        try:
            check_fit(agent, env)
        except PgdiffError as error:
            raise PgdiffError(f"'{name}': {error}") from error
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
    parts = [
        {
            "agent": names[part.agent],
            "noise": part.noise,
            "deterministic": part.deterministic,
            "rows": part.rows,
            "episodes": len(part.returns),
            "mean_return": float(part.returns.mean()) if len(part.returns) else None,
        }
        for part in recorded
    ]
    recording.write(
        path,
        {"reward_of": "transition", "seed": seed, "mix": mix.name, "parts": json.dumps(parts)},
    )
    return recorded


@contextmanager
def _copies(env: gymnasium.Env[Any, Any], count: int) -> Iterator[list[gymnasium.Env[Any, Any]]]:
    """Make copies of an environment that has a spec, and close them afterwards."""
    with ExitStack() as stack:
        copies: list[gymnasium.Env[Any, Any]] = []
        for _ in range(count if env.spec is not None else 0):
            copies.append(gymnasium.make(env.spec))  # type: ignore[arg-type]
            stack.callback(copies[-1].close)
        yield copies


def episode_returns(
    rewards: Float[np.ndarray, " rows"], ended: Bool[np.ndarray, " rows"]
) -> Float[np.ndarray, " episodes"]:
    """Undiscounted returns of the episodes whose last rows are marked."""
    sums = np.cumsum(rewards, dtype=np.float64)[np.flatnonzero(ended)]
    returns: np.ndarray = np.diff(sums, prepend=0.0)
    return returns
