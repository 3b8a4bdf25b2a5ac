"""Planning in locomotion: behaviour, cloning, the guiding agent, planners with and without guides.

    python tests/benchmarks/locomotion.py TASK RUN AGENT [--seed 0] [--episodes 20] [--rows ...]

RUN has the stages of `recipe=actions`, and `iql` and `cloning` added to it with `base=RUN`; AGENT
is the zip of the guiding policy. Settings of the guides are in CHOICES; they were chosen with
`--seed 10000`. All episodes of a row are planned in one batch.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import torch

import pgdiff
from pgdiff.agents import load
from pgdiff.diffusion import TrustRegion
from pgdiff.evaluation import Evaluation, evaluate, interval, paired_difference
from pgdiff.guides import Critic, Policy, Value
from pgdiff.planning import PLANNING
from pgdiff.runs.run import read_run

STEPS = {"halfcheetah": 500}
"""Steps of an episode by task; 1,000 for other tasks."""

DEFAULTS: dict[str, Any] = {
    "value": {"scale": 1.0, "transform": "none", "td_lambda": 0.9},
    "critic": {"scale": 1.0, "where": "every"},
    "policy": {"scale": 0.1},
    "region": {},
    "planner": {"candidates": 16, "steps": 5, "every": 4},
}
CHOICES: dict[str, dict[str, Any]] = {
    "walker2d": {
        "value": {"scale": 100.0},
        "critic": {"scale": 0.3, "fields": ["actions"]},
        "policy": {"scale": 1.0},
    },
    "hopper": {
        "value": {"scale": 3.0},
        "critic": {"scale": 0.03, "fields": ["actions"]},
        "policy": {"scale": 0.3},
    },
    "halfcheetah": {
        "value": {"scale": 3.0},
        "critic": {"scale": 0.03, "fields": ["actions"]},
        "policy": {"scale": 0.3},
    },
}
"""Changes to DEFAULTS by task."""


def behaviour(path: Path, steps: int) -> np.ndarray:
    """Return the returns of the recorded episodes, over the steps of an evaluated episode."""
    with h5py.File(path) as file:
        rewards = file["rewards"][:]
        ends = np.flatnonzero(file["terminals"][:].astype(bool) | file["timeouts"][:].astype(bool))
        whole = file["terminals"][:].astype(bool)[ends]
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends + 1 - starts
    # Leave out episodes that were cut off at the end of a part.
    kept = whole | (lengths >= 1000)
    return np.array(
        [
            rewards[a : min(a + steps, b + 1)].sum()
            for a, b in zip(starts[kept], ends[kept], strict=True)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("run", type=Path)
    parser.add_argument("agent", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON over CHOICES")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = STEPS.get(options.task, 1000)
    run = read_run(options.run)
    chosen = {
        key: value | CHOICES.get(options.task, {}).get(key, {}) | options.settings.get(key, {})
        for key, value in DEFAULTS.items()
    }

    def make_env() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(str(run.task["id"]), max_episode_steps=steps)

    rows = agents_of(run, load(options.agent), chosen)
    env = make_env()
    score = env.unwrapped.normalized_score  # type: ignore[attr-defined]
    print(f"{options.task}, episodes of {steps} steps; settings {json.dumps(chosen)}")
    recorded = behaviour(Path(run.data["path"]), steps)
    low, high = interval(recorded)
    print(
        f"| behaviour, {len(recorded)} episodes | {recorded.mean():.0f} [{low:.0f}, {high:.0f}] "
        f"| {score(recorded.mean()):.1f} | | |"
    )
    results: dict[str, Evaluation] = {}
    for name, make in rows.items():
        if options.rows and name not in options.rows:
            continue
        began = time.perf_counter()
        result = evaluate(
            make(),
            make_env,
            episodes=options.episodes,
            seed=options.seed,
            parallel=options.episodes,
            progress=False,
        )
        results[name] = result
        low, high = interval(result.returns)
        print(
            f"| {name} | {result.returns.mean():.0f} [{low:.0f}, {high:.0f}] "
            f"| {score(result.returns.mean()):.1f} | {result.lengths.mean():.0f} "
            f"| {time.perf_counter() - began:.0f} s |",
            flush=True,
        )
    print_differences(results, recorded)
    if options.out:
        content = {name: result.returns.tolist() for name, result in results.items()}
        options.out.write_text(json.dumps({"settings": chosen, "returns": content}) + "\n")


def agents_of(run: Any, agent: Any, chosen: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return functions that make the agent of each row."""
    model: Any = run.load("model")

    def value() -> Value:
        learned: Any = run.load("value")
        return Value(learned, **chosen["value"])

    def critic() -> Critic:
        return Critic(run.load("iql"), **chosen["critic"])

    def policy() -> Policy:
        return Policy(agent, **chosen["policy"])

    def planner(*guides: Any, **changes: Any) -> pgdiff.Planner:
        region = TrustRegion(**chosen["region"]) if guides else None
        settings = chosen["planner"] | changes
        return pgdiff.Planner(
            model,
            guides,
            controller="actions",
            candidates=settings["candidates"],
            sampling=PLANNING.replace(steps=settings["steps"], trust_region=region),
            replanning=pgdiff.Replanning(every=settings["every"]),
        )

    return {
        "behaviour cloning": lambda: run.load("cloning"),
        "IQL's policy": lambda: run.load("iql"),
        "the guiding agent alone": lambda: agent,
        "unguided planner": lambda: planner(candidates=1),
        "value-guided": lambda: planner(value()),
        "critic-guided": lambda: planner(critic()),
        "policy-guided": lambda: planner(policy()),
        "composed": lambda: planner(value(), critic(), policy()),
    }


def print_differences(results: dict[str, Evaluation], recorded: np.ndarray) -> None:
    """Print the differences between guided planners and their baselines."""
    for name in ("value-guided", "critic-guided"):
        for other in ("behaviour cloning", "unguided planner"):
            if name in results and other in results:
                print(f"{name} minus {other}: {difference(results[name], results[other])}")
        if name in results:
            mean, low, high = unpaired(results[name].returns, recorded)
            print(f"{name} minus behaviour: {mean:+.0f} [{low:+.0f}, {high:+.0f}]")


def difference(one: Evaluation, other: Evaluation) -> str:
    """Return the mean difference, paired by environment seed, with its interval."""
    mean, low, high = paired_difference(one.returns, other.returns)
    return f"{mean:+.0f} [{low:+.0f}, {high:+.0f}]"


def unpaired(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Return the unpaired difference of means with its bootstrap interval."""
    source = np.random.default_rng(0)
    drawn = [
        source.choice(one, len(one)).mean() - source.choice(other, len(other)).mean()
        for _ in range(4000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(one.mean() - other.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
