"""Small environments and models for the tests."""

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import pgdiff
from pgdiff import (
    Conditioning,
    DiffusionProcess,
    Episodes,
    Goals,
    InpaintingPatterns,
    ObservationFilter,
    Planner,
    Replanning,
    Sampling,
    Selection,
    Tokens,
    Trainer,
    TrajectoryDiffusion,
    WarmStart,
)
from pgdiff.core.context import Context
from pgdiff.denoisers import DenoiserSpec, TransformerConfig
from pgdiff.planning import PLANNING
from pgdiff.runs import load_planner

DOUBLE = torch.float64
DT = 0.1
Module = TypeVar("Module", bound=nn.Module)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def push(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Return the next state (x, y, vx, vy) of a point mass; the action is its acceleration."""
    velocity = state[..., 2:] + DT * action
    return np.concatenate([state[..., :2] + DT * velocity, velocity], axis=-1)


def walk(*, episodes: int = 6, length: int = 80, seed: int = 0) -> Episodes:
    """Record the point mass under random actions; it is rewarded near the origin."""
    rng = np.random.default_rng(seed)
    state = rng.uniform(-1, 1, (episodes, 4))
    actions = rng.uniform(-1, 1, (length, episodes, 2))
    states = []
    for action in actions:
        states.append(state)
        state = push(state, action)
    observations = np.stack(states, axis=1).reshape(-1, 4)
    return record(
        observations,
        actions.swapaxes(0, 1).reshape(-1, 2),
        np.exp(-np.square(observations[:, :2]).sum(axis=1)),
        lengths=[length] * episodes,
    )


def record(
    observations: Any, actions: Any, rewards: Any, *, lengths: list[int], terminal: bool = False
) -> Episodes:
    """Return episodes of the given lengths, one after another."""
    ends = np.zeros(sum(lengths), bool)
    ends[np.cumsum(lengths) - 1] = True
    return Episodes.from_arrays(
        observations=np.asarray(observations, np.float32),
        actions=np.asarray(actions, np.float32),
        rewards=np.asarray(rewards, np.float32),
        terminals=ends & terminal,
        timeouts=ends & (not terminal),
    )


@torch.no_grad()
def stir(module: Module, *, seed: int = 0, size: float = 0.2) -> Module:
    """Add random numbers to all weights: a new transformer returns 0, which would hide faults."""
    source = generator(seed)
    for parameter in module.parameters():
        parameter.add_(size * torch.randn(parameter.shape, generator=source))
    return module.eval()


def spec(features: int, outputs: int | None = None, condition: int = 0) -> DenoiserSpec:
    """The specification of a network with this size of the joint condition, or without one."""
    context = {} if condition == 0 else {"condition": (condition,)}
    return DenoiserSpec(features=features, outputs=outputs, context=context)


def joint(vector: Tensor) -> Context:
    """The context of a network that reads the joint condition."""
    return Context.from_vector(vector)


GROUPS: dict[str, tuple[type, dict[str, str]]] = {
    "tokens": (
        Tokens,
        {name: name for name in ("horizon", "stride", "fields", "normalizer", "field_scales")},
    ),
    "process": (
        DiffusionProcess,
        {
            name: name
            for name in ("noise_schedule", "prediction", "level_distribution", "loss_weight")
        },
    ),
    "inpainting": (
        InpaintingPatterns,
        {"known": "patterns", "position": "goal_features", "rest": "zero_at_goal"},
    ),
    "conditions": (
        Conditioning,
        {"conditions": "conditioners", "condition_dropout": "dropout"},
    ),
    "sampling": (
        Sampling,
        {
            "steps": "steps",
            "solver": "solver",
            "spacing": "spacing",
            "level_schedule": "level_schedule",
            "horizon": "horizon",
            "clip": "clip",
            "classifier_free": "classifier_free",
            "trust_region": "trust_region",
            "resample": "particles",
            "monte_carlo": "monte_carlo",
            "history": "history",
            "stabilization": "stabilization",
            "cache": "kv_cache",
            "noise_device": "noise_device",
        },
    ),
    "replanning": (
        Replanning,
        {"replan_every": "every", "lookahead": "lookahead", "warm_start": "warm_start"},
    ),
    "selection": (
        Selection,
        {
            "keep_plan": "keep_previous",
            "scale_factors": "scale_ladder",
            "plausibility": "plausibility",
        },
    ),
    "goals": (Goals, {"hold_goal": "hold", "arrivals": "tokens"}),
    "filter": (
        ObservationFilter,
        {
            "observation_level": "noise_level",
            "missing_level": "missing_level",
            "context": "history_tokens",
        },
    ),
}
"""Value objects by the argument that takes each, and the short names of their fields in tests."""

OFF = ("clip", "replan_every")
"""Short names whose None is a value; that of the others is the default."""


def gathered(options: dict[str, Any], group: str) -> dict[str, Any]:
    """Remove the fields of a value object from flat options and return them."""
    names = GROUPS[group][1]
    given = {key: options.pop(key) for key in list(options) if key in names}
    return {names[key]: value for key, value in given.items() if value is not None or key in OFF}


def flat_model(episodes: Episodes, **options: Any) -> TrajectoryDiffusion:
    """Call `TrajectoryDiffusion.from_episodes` with flat options."""
    made = {
        group: GROUPS[group][0](**gathered(options, group))
        for group in ("tokens", "process", "inpainting", "conditions")
    }
    return TrajectoryDiffusion.from_episodes(episodes, **made, **options)


def flat_sample(model: TrajectoryDiffusion, **options: Any) -> Tensor:
    """Return the normalised samples of `model.sample` with flat options."""
    sampling = Sampling(**gathered(options, "sampling"))
    names = {"known": "inpainting", "observed": "measurement", "guidance": "guides"}
    names["generators"] = "seed"
    return model.sample(
        sampling=sampling, **{names.get(key, key): value for key, value in options.items()}
    ).x


def flat_rollout(model: TrajectoryDiffusion, observations: Any, **options: Any) -> Any:
    """Call `pgdiff.rollout` with flat options."""
    past = options.pop("context", None)
    sampling = Sampling(**gathered(options, "sampling"))
    guides = options.pop("guidance", ())
    return pgdiff.rollout(
        model, observations, history_tokens=past, sampling=sampling, guides=guides, **options
    )


def planner_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of `Planner` from flat options."""
    level, share = options.pop("warm_start", None), options.pop("warm_share", 1.0)
    if level is not None:
        options["warm_start"] = WarmStart(level=level, share=share)
    changes = gathered(options, "sampling")
    made: dict[str, Any] = {"sampling": PLANNING.replace(**changes)} if changes else {}
    for group in ("replanning", "selection", "goals", "filter"):
        given = gathered(options, group)
        if given:
            made[group] = GROUPS[group][0](**given)
    return made | options


def flat_planner(model: TrajectoryDiffusion, **options: Any) -> Planner:
    """Return a `Planner` with flat options."""
    return Planner(model, **planner_options(options))


def flat_load(run: Any, **options: Any) -> Planner:
    """Call `load_planner` with flat options, including those of the run's guide."""
    guide = {key: options.pop(key) for key in ("scale", "agent", "gradient_at") if key in options}
    if guide:
        named = options.get("guide")
        options["guide"] = (
            guide if named is None else {named: guide} if isinstance(named, str) else named
        )
    level, share = options.pop("warm_start", None), options.pop("warm_share", 1.0)
    changes: dict[str, Any] = {}
    if level is not None:
        changes["replanning"] = {"warm_start": {"name": "plan", "level": level, "share": share}}
    for group in ("sampling", "replanning", "selection", "goals", "filter"):
        given = gathered(options, group)
        if given:
            changes[group] = changes.get(group, {}) | given
    return load_planner(run, **changes, **options)


def tiny_model(episodes: Episodes | None = None, **options: Any) -> TrajectoryDiffusion:
    """Return an untrained model with random weights, six tokens three steps apart.

    Its estimates stay within the sampler's limits, which would hide differences.
    """
    settings: dict[str, Any] = {
        "horizon": 6,
        "stride": 3,
        "denoiser": TransformerConfig(width=16, depth=1, heads=2),
    }
    model = stir(flat_model(episodes or walk(), **(settings | options)))
    with torch.no_grad():
        model.network.token_out.weight.mul_(0.25)
    return model


def fit(learner: Any, episodes: Episodes, *, steps: int, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "learning_rate": 3e-3,
        "warmup": 10,
        "ema_decay": 0.98,
        "validation": 0.0,
        "device": "cpu",
        "progress": False,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads do not speed up networks of this size
    try:
        return Trainer(steps=steps, **(settings | options)).fit(learner, episodes)
    finally:
        torch.set_num_threads(threads)


def finite_differences(function: Any, x: Tensor, step: float = 1e-5) -> Tensor:
    """Return the gradient of the sum of `function(x)` by central differences."""
    gradient = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        up, down = x.clone(), x.clone()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)).sum() / (2 * step)
    return gradient
