"""Adapter between the golden entries and pgdiff: changes of the API are followed here.

The entries in `entries.py` call these helpers and the classes that are imported here, nothing else.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from pgdiff import (
    Condition,
    Conditioning,
    DiffusionProcess,
    Episodes,
    Goals,
    GoalValue,
    InpaintingPatterns,
    InverseDynamics,
    ObservationFilter,
    Planner,
    Replanning,
    Sampling,
    SegmentValue,
    Selection,
    Tokens,
    Trainer,
    TrajectoryDiffusion,
    TransitionValue,
    WarmStart,
    diffusion,
    explain,
    generate,
    guides,
    load_learner,
    rollout,
)
from pgdiff.agents import IQL, TD3BC, Cloning, FittedQ, load
from pgdiff.core.pretrained import seeded_torch
from pgdiff.data import ClassCondition, GoalCondition, ReturnCondition
from pgdiff.denoisers import ResidualMLPConfig, TemporalUnetConfig, TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    Autoregressive,
    Churn,
    ClassifierFree,
    CleanWeight,
    Consistency,
    CosineSchedule,
    DiffuserRule,
    DiffusionForcingRule,
    DPMSolver,
    EDMPrediction,
    EDMSchedule,
    EDMWeight,
    EpsilonPrediction,
    FlowPrediction,
    FlowSchedule,
    ForcingLevels,
    FullSequence,
    FusedSnrWeight,
    Heun,
    HistoryGuidance,
    HistoryView,
    IndependentLevels,
    Inpainting,
    Interval,
    KarrasSpacing,
    LinearSchedule,
    LogNormalLevels,
    LogSnrSpacing,
    Measurement,
    MinSnrWeight,
    MixtureLevels,
    MonteCarlo,
    PolicyGuidedRule,
    Power,
    Pyramid,
    Resample,
    Score,
    SequenceLevels,
    SigmoidSchedule,
    SineBump,
    TabulatedSchedule,
    TrailingSpacing,
    Trapezoid,
    TrustRegion,
    UniformSpacing,
    UniformWeight,
    VPrediction,
    X0Prediction,
)
from pgdiff.dynamics import DynamicsEnsemble
from pgdiff.evaluation.fidelity.likelihoods import model_likelihood, policy_likelihood
from pgdiff.guides import (
    ActionLimit,
    Box,
    Disc,
    SpeedLimit,
    bind,
)
from pgdiff.planning import PLANNING, Plausibility
from pgdiff.planning.replanning import shift_plans
from pgdiff.synthesis.shard_sampler import SAMPLING as SHARDS
from pgdiff.training import Callback

__all__ = [
    "DDIM",
    "DDPM",
    "IQL",
    "TD3BC",
    "ActionLimit",
    "Autoregressive",
    "Box",
    "Churn",
    "ClassifierFree",
    "CleanWeight",
    "Cloning",
    "Condition",
    "Consistency",
    "Constraint",
    "Critic",
    "DPMSolver",
    "DiffuserRule",
    "DiffusionForcingRule",
    "Disc",
    "EDMWeight",
    "ForcingLevels",
    "FullSequence",
    "FusedSnrWeight",
    "Goal",
    "Guidance",
    "Heun",
    "HistoryGuidance",
    "HistoryView",
    "IndependentLevels",
    "Interval",
    "KarrasSpacing",
    "Known",
    "LogNormalLevels",
    "LogSnrSpacing",
    "MinSnrWeight",
    "MixtureLevels",
    "MonteCarlo",
    "Observed",
    "Plausibility",
    "Policy",
    "PolicyGuidedRule",
    "Power",
    "Pyramid",
    "Resample",
    "Return",
    "Score",
    "SequenceLevels",
    "SineBump",
    "SpeedLimit",
    "Sum",
    "TrailingSpacing",
    "Trapezoid",
    "TrustRegion",
    "UniformSpacing",
    "UniformWeight",
    "Value",
    "bind",
    "shift_plans",
]

Arrays = dict[str, np.ndarray]


# ------------------------------------------------------------------------------- names of entries

NAMES = {
    "at": "gradient_at",
    "energy": "objective",
    "normalize": "normalize_gradient",
    "position": "goal_features",
    "schedule": "scale_schedule",
    "tokens": "token_weights",
    "trace": "td_lambda",
    "weight": "score_weight",
}
"""Settings of guides that entries call by another name than the library."""

TOKENS = ("horizon", "stride", "fields", "normalizer", "field_scales")
PROCESS = {
    "schedule": "noise_schedule",
    "prediction": "prediction",
    "levels": "level_distribution",
    "loss_weight": "loss_weight",
}
PATTERNS = {"known": "patterns", "position": "goal_features", "rest": "zero_at_goal"}
SAMPLING = {
    "steps": "steps",
    "solver": "solver",
    "spacing": "spacing",
    "levels": "level_schedule",
    "schedule": "level_schedule",
    "horizon": "horizon",
    "clip": "clip",
    "classifier_free": "classifier_free",
    "trust_region": "trust_region",
    "resample": "particles",
    "history": "history",
    "monte_carlo": "monte_carlo",
    "stabilization": "stabilization",
    "cache": "kv_cache",
    "noise_device": "noise_device",
}
PLANNER = {
    "replan_every": ("replanning", "every"),
    "lookahead": ("replanning", "lookahead"),
    "keep_plan": ("selection", "keep_previous"),
    "scale_factors": ("selection", "scale_ladder"),
    "plausibility": ("selection", "plausibility"),
    "hold_goal": ("goals", "hold"),
    "arrivals": ("goals", "tokens"),
    "observation_level": ("filter", "noise_level"),
    "missing_level": ("filter", "missing_level"),
    "context": ("filter", "history_tokens"),
}


def taken(options: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Remove options and return them by the names of the library; None is the default."""
    found = {}
    for key, name in names.items():
        if key in options:
            value = options.pop(key)
            if value is not None or key == "clip":
                found[name] = value
    return found


def renamed(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in options.items()}


def guide_of(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Return a class of guides whose settings have the names of the entries."""
    return lambda *parts, **options: kind(*parts, **renamed(options, NAMES))


Known, Observed = Inpainting, Measurement
Guidance, Value, Critic, Policy, Return, Goal, Constraint, Sum = map(
    guide_of,
    (
        diffusion.Guidance,
        guides.Value,
        guides.Critic,
        guides.Policy,
        guides.Return,
        guides.Goal,
        guides.Constraint,
        guides.Sum,
    ),
)

# ------------------------------------------------------------------------------------- the world

LENGTH = 60
HERE = np.array([0.2, -0.4, 0.1, 0.3], np.float32)
GOAL = [0.3, 0.5]
SEEN = np.random.default_rng(5).uniform(-0.8, 0.8, (16, 3, 4)).astype(np.float32)
"""Observations of 3 environments at 16 steps."""


@cache
def episodes() -> Episodes:
    """Record a point mass under random pushes, with a terminal in every fourth episode."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {name: [] for name in ROWS}
    for number in range(12):
        state = rng.uniform(-1, 1, 4)
        length = LENGTH - 3 * (number % 4)
        for step in range(length):
            action = rng.uniform(-1, 1, 2)
            velocity = state[2:] + 0.1 * action
            after = np.concatenate([state[:2] + 0.1 * velocity, velocity])
            last = step == length - 1
            rows["observations"].append(state)
            rows["actions"].append(action)
            rows["rewards"].append(1 / (1 + state[0] ** 2 + state[1] ** 2))
            rows["next_observations"].append(after)
            rows["terminals"].append(last and number % 4 == 1)
            rows["timeouts"].append(last and number % 4 != 1)
            rows["infos/class"].append([float(number % 3)])
            state = after
    flags = ("terminals", "timeouts")
    return Episodes.from_arrays(
        **{name: np.array(row, bool if name in flags else np.float32) for name, row in rows.items()}
    )


ROWS = (
    "observations",
    "actions",
    "rewards",
    "next_observations",
    "terminals",
    "timeouts",
    "infos/class",
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def array(values: Any) -> np.ndarray:
    """Return a copy of a tensor, an array or a number."""
    found = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.array(found)


@torch.no_grad()
def stir(module: Any, *, seed: int = 0, size: float = 0.2) -> Any:
    """Add random numbers to all weights: a new transformer returns 0, which would hide faults."""
    source = generator(seed)
    for parameter in module.parameters():
        parameter.add_(size * torch.randn(parameter.shape, generator=source))
    return module.eval()


def weights(module: nn.Module) -> Arrays:
    """Return all parameters and buffers in order; of large ones the beginning and the sum."""
    found: Arrays = {}
    for place, values in enumerate(module.state_dict().values()):
        flat = array(values).reshape(-1)
        found[f"{place:03d}"] = flat[:1000]
        if len(flat) > 1000:
            found[f"{place:03d}/sum"] = flat.astype(np.float64).sum(keepdims=True)
    return found


# ---------------------------------------------------------------------------------------- models

DENOISERS: dict[str, Any] = {
    "transformer_full": TransformerConfig(width=16, depth=1, heads=2),
    "transformer_causal": TransformerConfig(width=16, depth=2, heads=2, attention="causal"),
    "transformer_window": TransformerConfig(
        width=16, depth=2, heads=2, attention="window", window=3
    ),
    "transformer_hiding": TransformerConfig(width=16, depth=1, heads=2, hide_noise=True),
    "temporal_unet": TemporalUnetConfig(width=16, mults=(1, 2), groups=4),
    "residual_mlp": ResidualMLPConfig(width=16, depth=2, embedding=8),
}
TABLE = tuple((np.linspace(0.999**0.5, 1e-3, 50) ** 2).tolist())
NOISE: dict[str, Callable[[], Any]] = {
    "cosine": CosineSchedule,
    "edm": EDMSchedule,
    "flow": FlowSchedule,
    "linear": LinearSchedule,
    "sigmoid": SigmoidSchedule,
    "tabulated": lambda: TabulatedSchedule(alphas_cumprod=TABLE),
}
PREDICTIONS: dict[str, Callable[[], Any]] = {
    "edm": EDMPrediction,
    "epsilon": EpsilonPrediction,
    "flow": FlowPrediction,
    "v": VPrediction,
    "x0": X0Prediction,
}
PAIRS = [
    *((noise, "x0") for noise in NOISE),
    *((noise, "edm") for noise in NOISE),
    *((noise, "v") for noise in ("cosine", "linear", "sigmoid", "tabulated")),
    *((noise, "epsilon") for noise in ("linear", "edm", "tabulated")),
    ("flow", "flow"),
]
"""Every noise schedule with the predictions that fit it."""

FORCING: dict[str, Any] = {
    "denoiser": DENOISERS["transformer_causal"],
    "levels": IndependentLevels(),
}
STARTS = ("none", "start", "start_goal")
SYNTHETIC: dict[str, Any] = {"normalizer": "arctanh", "known": ("none",), "stride": 1}
MODELS: dict[str, dict[str, Any]] = {
    "full": {"known": STARTS},
    "causal": {**FORCING, "known": STARTS},
    "goals": {"known": ("start", "start_goal", "start_arrival"), "rest": (2, 3)},
    "linear": {**FORCING, "schedule": LinearSchedule(), "prediction": VPrediction()},
    "flow": {**FORCING, "schedule": FlowSchedule(), "prediction": FlowPrediction()},
    "edm": {**FORCING, "schedule": EDMSchedule(), "prediction": EDMPrediction()},
    "actions": {"fields": ("observations", "actions"), "stride": 1, "known": ("none", "start")},
    "chunks": {**FORCING, "fields": ("observations", "action_chunks"), "known": STARTS},
    "previous": {**FORCING, "fields": ("observations", "previous_actions")},
    "rewards": {"fields": ("observations", "actions", "rewards")},
    "scaled": {
        "fields": ("observations", "actions"),
        "field_scales": {"actions": 0.5},
        "normalizer": "standard",
        "stride": 1,
    },
    "return": {"conditions": [ReturnCondition(discount=0.9)]},
    "goal": {"conditions": [GoalCondition()]},
    "conditions": {
        **FORCING,
        "conditions": [ReturnCondition(discount=0.9), GoalCondition(), ClassCondition(classes=3)],
    },
    "trajectories": {**SYNTHETIC, "fields": ("observations", "actions", "rewards", "terminals")},
    "transitions": {
        **SYNTHETIC,
        "fields": ("observations", "actions", "rewards", "terminals", "next_observations"),
        "horizon": 1,
        "denoiser": DENOISERS["residual_mlp"],
    },
    **{f"backbone {name}": {"denoiser": part} for name, part in DENOISERS.items()},
    **{
        f"{noise} {prediction}": {
            "schedule": NOISE[noise](),
            "prediction": PREDICTIONS[prediction](),
        }
        for noise, prediction in PAIRS
    },
}


def new_model(**options: Any) -> TrajectoryDiffusion:
    """Return a model with initial weights."""
    settings: dict[str, Any] = {
        "horizon": 8,
        "stride": 3,
        "denoiser": DENOISERS["transformer_full"],
    }
    options = settings | options
    tokens = Tokens(**{name: options.pop(name) for name in TOKENS if name in options})
    process = DiffusionProcess(**taken(options, PROCESS))
    inpainting = InpaintingPatterns(**taken(options, PATTERNS))
    dropout = options.pop("condition_dropout", 0.1)
    conditions = Conditioning(conditioners=options.pop("conditions", ()), dropout=dropout)
    return TrajectoryDiffusion.from_episodes(
        episodes(),
        tokens,
        process=process,
        inpainting=inpainting,
        conditions=conditions,
        **options,
    )


def stirred_model(**options: Any) -> TrajectoryDiffusion:
    """Return an untrained model with random weights and estimates within the usual limits."""
    model = stir(new_model(**options))
    last = getattr(model.network, "token_out", None)
    if isinstance(last, nn.Linear):
        with torch.no_grad():
            last.weight.mul_(0.25)
    return model


@cache
def model(name: str) -> TrajectoryDiffusion:
    """Return one of `MODELS`, which callers must not change."""
    return stirred_model(**MODELS[name])


def distilled_model() -> TrajectoryDiffusion:
    """Return the model "full" marked as a consistency function."""
    plain = model("full")
    made = TrajectoryDiffusion(
        codec=plain.codec, denoiser=plain.denoiser, process=plain.process, distilled=True
    )
    return stir(made)


# -------------------------------------------------------------------------------------- learners

LEARNERS: dict[str, Callable[[], Any]] = {
    "transition_value": lambda: TransitionValue.from_episodes(
        episodes(), stride=3, discount=0.9, width=16, depth=1, seed=1
    ),
    "transition_value_log": lambda: TransitionValue.from_episodes(
        episodes(), stride=1, width=16, depth=1, log_space=True, value_features=(0, 1), seed=2
    ),
    "segment_value": lambda: SegmentValue.from_episodes(
        episodes(),
        horizon=8,
        stride=3,
        discount=0.9,
        denoiser=DENOISERS["transformer_full"],
        seed=3,
    ),
    "goal_value": lambda: GoalValue.from_episodes(
        episodes(), stride=3, tolerance=0.3, width=16, depth=1, seed=4
    ),
    "goal_value_latent": lambda: GoalValue.from_episodes(
        episodes(), stride=3, tolerance=0.3, width=16, depth=1, latent=4, log_space=True, seed=5
    ),
    "inverse_dynamics": lambda: InverseDynamics.from_episodes(
        episodes(), stride=3, width=16, depth=1, seed=6
    ),
    "dynamics_ensemble": lambda: DynamicsEnsemble.from_episodes(
        episodes(), members=2, width=16, depth=1, seed=7
    ),
    "iql": lambda: IQL.from_episodes(episodes(), members=2, width=16, depth=1, seed=8),
    "td3_bc": lambda: TD3BC.from_episodes(episodes(), members=2, width=16, depth=1, seed=9),
    "cloning": lambda: Cloning.from_episodes(episodes(), members=2, width=16, depth=1, seed=10),
    "fitted_q": lambda: FittedQ.from_episodes(
        episodes(), policies=[learner("cloning"), learner("iql")], width=16, depth=1, seed=11
    ),
}
CRITICS = ("transition_value", "transition_value_log", "segment_value")
AGENTS = ("iql", "td3_bc", "cloning")


def new_learner(name: str) -> Any:
    """Return one of `LEARNERS` with initial weights; "model ..." is one of `MODELS`."""
    if name.startswith("model "):
        return new_model(**MODELS[name.removeprefix("model ")])
    return LEARNERS[name]()


@cache
def learner(name: str) -> Any:
    """Return one of `LEARNERS` with random weights, which callers must not change."""
    size, seed = (0.3, 0) if name in AGENTS else (0.2, 3)
    return stir(LEARNERS[name](), size=size, seed=seed)


def batch(learner: Any, *, size: int = 12) -> Any:
    """Return examples from the whole recording, as tensors."""
    data = learner.dataset(episodes())
    raw = data.batch(np.linspace(0, len(data) - 1, size).astype(np.int64))
    kept = (None if value is None else torch.as_tensor(np.array(value)) for value in raw)
    return type(raw)(*kept)


def batch_arrays(examples: Any) -> Arrays:
    """Return the fields of a batch by name."""
    named = zip(examples._fields, examples, strict=True)
    return {name: array(value) for name, value in named if value is not None}


def losses(learner: Any, *, size: int = 12, seed: int = 0) -> Arrays:
    """Return a learner's losses on `batch`, and the norm of every parameter's gradient."""
    learner.zero_grad()
    found = learner.losses(batch(learner, size=size), generator(seed))
    torch.stack(list(found.values())).sum().backward()
    norms = [float(p.grad.norm()) for p in learner.parameters() if p.grad is not None]
    return {
        "losses": np.array([float(loss.detach()) for loss in found.values()]),
        "gradients": np.array(norms),
    }


def segment(model: TrajectoryDiffusion, *, size: int = 3, goal: bool = False) -> Any:
    """Return recorded trajectories as segments."""
    found = model.codec.decode(model.codec.encode(batch(model, size=size)))
    if goal:
        found = found.replace(condition={"goal": torch.tensor([GOAL])})
    return found


def act(agent: Any) -> Arrays:
    """Return an agent's outputs for recorded rows."""
    observation = array(episodes().observations[::50])
    action = array(episodes().actions[::50])
    there, done = torch.as_tensor(observation), torch.as_tensor(action)
    found = {"best": agent.predict(observation, deterministic=True)[0]}
    for name, given in (("log_prob", (there, done)), ("q", (there, done)), ("value", (there,))):
        if hasattr(agent, name):
            with suppressed(), torch.no_grad():
                found[name] = array(getattr(agent, name)(*given))
    return found


@contextmanager
def suppressed() -> Iterator[None]:
    """Ignore methods that a kind of agent does not have."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ not in ("PgdiffError", "NotImplementedError"):
            raise


def drawn_actions(agent: Any) -> np.ndarray:
    """Return actions that an agent draws from a seed."""
    agent.set_random_seed(3)
    return array(agent.predict(array(episodes().observations[::50]), deterministic=False)[0])


def sb3_agent(name: str) -> Any:
    """Return a new agent of Stable-Baselines3 or sb3-contrib with larger weights."""
    import gymnasium as gym
    import sb3_contrib
    import stable_baselines3

    class Room(gym.Env):  # type: ignore[type-arg]
        observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        action_space = gym.spaces.Box(np.float32([-0.8, -2.0]), np.float32([1.2, 0.5]))

    kind = getattr(sb3_contrib if name == "TQC" else stable_baselines3, name)
    with seeded_torch(seed=len(name) + ord(name[0])):
        live = kind("MlpPolicy", Room(), policy_kwargs={"net_arch": [16, 16]}, device="cpu")
    stir(live.policy, size=0.15)
    with folder() as place:
        live.save(place / "agent.zip")
        return load(place / "agent.zip")


def formats_with(condition: str) -> list[str]:
    """Return the stored checkpoint folders whose model has a condition."""
    return [name for name in formats() if condition in stored(name, "model").conditions.names]


def imagined(agent: Any) -> Arrays:
    """Return trajectories of an agent in the learned dynamics."""
    made = learner("dynamics_ensemble").rollout(
        agent,
        array(episodes().observations[::100]),
        steps=6,
        seed=4,
        bounds=(np.full(4, -3, np.float32), np.full(4, 3, np.float32)),
    )
    return {name: array(value) for name, value in made.fields().items()}


def likelihoods(of: TrajectoryDiffusion) -> Arrays:
    """Return the log-likelihoods of recorded segments under a model."""
    found = model_likelihood(of, episodes(), segments=3, steps=5, probes=2, seed=1)
    return {"figures": np.array([float(value) for value in vars(found).values()])}


def policy_likelihoods(agent: Any) -> Arrays:
    """Return the log-likelihoods of recorded actions under an agent."""
    found = policy_likelihood(agent, episodes(), rows=100, seed=1)
    return {"figures": np.array([float(value) for value in vars(found).values()])}


# --------------------------------------------------------------------------------------- samples


def start(model: TrajectoryDiffusion, *, rows: int = 3) -> Known:
    """Return the in-painting of some first observations."""
    return model.inpaint(torch.linspace(-0.5, 0.5, 4 * rows).reshape(rows, 4))


def start_goal(model: TrajectoryDiffusion, *, rows: int = 3, arrival: bool = False) -> Known:
    """Return the in-painting of some first observations and a goal."""
    return model.inpaint(
        torch.linspace(-0.5, 0.5, 4 * rows).reshape(rows, 4),
        torch.linspace(-0.4, 0.6, 2 * rows).reshape(rows, 2),
        torch.arange(2, 2 + rows) if arrival else None,
    )


def draw(
    model: TrajectoryDiffusion, *, rows: int = 3, seed: int = 0, sources: int = 1, **options: Any
) -> np.ndarray:
    """Return samples from recorded starts, in normalised units."""
    settings: dict[str, Any] = {"steps": 5}
    if "known" not in options:
        settings["known"] = start(model, rows=rows)
    generators = [generator(seed + i) for i in range(sources)]
    return array(sampled(model, rows, seed=generators, **(settings | options)))


def sampled(model: TrajectoryDiffusion, rows: int, **options: Any) -> Tensor:
    """Return samples; settings have the names of the entries."""
    sampling = Sampling(**taken(options, SAMPLING))
    names = {"known": "inpainting", "observed": "measurement", "guidance": "guides"}
    return model.sample(rows, sampling, **renamed(options, names)).x


def path(model: TrajectoryDiffusion, **options: Any) -> Arrays:
    """Return samples and clean estimates after every row."""
    steps: list[Any] = []
    last = draw(model, callback=steps.append, **options)
    estimates = [step.x0_hat for step in steps if step.x0_hat is not None]
    return {
        "last": last,
        "x": array(torch.stack([step.x for step in steps])),
        "x0_hat": array(torch.stack(estimates)),
        "level": array(torch.cat([step.level.expand(len(last), -1) for step in steps])),
    }


def estimates(model: TrajectoryDiffusion, condition: Mapping[str, Any] | None = None) -> np.ndarray:
    """Return clean estimates of noise at several levels."""
    shape = (3, model.codec.tokens, model.codec.features)
    x = torch.randn(shape, generator=generator(2))
    level = torch.linspace(0.05, 0.95, 3)[:, None].expand(shape[:2])
    with torch.no_grad():
        return array(model.denoise(x, level, condition_of(condition)))


def condition_of(values: Mapping[str, Any] | None) -> Condition | None:
    return None if values is None else Condition(values=values)


def levels_of(levels: Any, spacing: Any = None, *, of: str = "causal") -> np.ndarray:
    """Return the level matrix of a schedule."""
    return array(
        model(of).level_matrix(
            Sampling(steps=5, **taken({"spacing": spacing, "levels": levels}, SAMPLING))
        )
    )


def rolled(model: TrajectoryDiffusion, **options: Any) -> np.ndarray:
    """Return the observations of a roll-out in windows."""
    settings: dict[str, Any] = {"tokens": 15, "seed": 3, "steps": 4} | options
    sampling = Sampling(**taken(settings, SAMPLING))
    settings = renamed(settings, {"context": "history_tokens", "guidance": "guides"})
    return array(rollout(model, SEEN[0], sampling=sampling, **settings).observations)


def likelihood(model: TrajectoryDiffusion, **options: Any) -> Arrays:
    """Return the log-density of recorded segments."""
    examples = whole(model)
    found = model.log_likelihood(examples, steps=6, **renamed(options, {"known": "pattern"}))
    return {"value": array(found.value), "error": array(found.standard_error)}


def whole(model: TrajectoryDiffusion) -> Any:
    """Return three recorded segments without padding."""
    examples = batch(model, size=12)
    rows = examples.mask.all(dim=1).nonzero()[:3, 0]
    return type(examples)(*(None if value is None else value[rows] for value in examples))


def energy(x: Tensor, level: Tensor) -> Tensor:
    """Return a smooth objective of normalised tokens."""
    return -(x[..., :2] - 0.4).square().sum(dim=(1, 2)) - 0.5 * x[:, -1, 0].square()


def noisy_energy(x: Tensor, level: Tensor) -> Tensor:
    """Return a smooth objective of normalised tokens and levels."""
    return ((1 - level)[..., None] * x).sin().sum(dim=(1, 2))


# ----------------------------------------------------------------------------------------- plans


class Likes(nn.Module):
    """An actor and critic in plain arithmetic."""

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return -0.5 * ((action - 0.5 * observation[..., :2] - 0.2) / 0.5).square().sum(dim=-1)

    def q(self, observation: Tensor, action: Tensor) -> Tensor:
        near = -(observation[..., :2] - 0.3).square().sum(dim=-1)
        return torch.stack([near + action[..., 0], near - 0.5 * action[..., 1]])


class ToWaypoint:
    """A controller in plain arithmetic."""

    def act(self, observation: Any, waypoint: Any, steps_left: Any) -> np.ndarray:
        way = (waypoint - observation)[:, :2] / steps_left[:, None]
        return (0.5 * way + 0.1 * observation[:, 2:]).astype(np.float32)


def planner(of: str | TrajectoryDiffusion, **options: Any) -> Planner:
    settings: dict[str, Any] = {"candidates": 4, "steps": 5, "seed": 3, "device": "cpu"}
    made = model(of) if isinstance(of, str) else of
    options = settings | options
    sampling = PLANNING.replace(**taken(options, SAMPLING))
    parts: dict[str, dict[str, Any]] = {}
    for key, (part, name) in PLANNER.items():
        if key in options:
            parts.setdefault(part, {})[name] = options.pop(key)
    level, share = options.pop("warm_start", None), options.pop("warm_share", 1.0)
    if level is not None:
        parts.setdefault("replanning", {})["warm_start"] = WarmStart(level=level, share=share)
    kinds = {
        "replanning": Replanning,
        "selection": Selection,
        "goals": Goals,
        "filter": ObservationFilter,
    }
    built = {part: kinds[part](**values) for part, values in parts.items()}
    return Planner(made, sampling=sampling, **built, **options)


def value_guide(**options: Any) -> Value:
    """Return a guide of a value with a clear effect."""
    return Value(learner("transition_value"), **({"scale": 5.0} | options))


def plan_arrays(plan: Any) -> Arrays:
    """Return the arrays of a plan."""
    found = {name: getattr(plan, name) for name in ("candidates", "scores", "actions", "moves")}
    found["best"] = plan.best
    return {name: array(value) for name, value in found.items() if value is not None}


def plan(of: str | TrajectoryDiffusion, *, goal: Any = None, **options: Any) -> Arrays:
    """Return the arrays of a plan; settings have the names of the entries."""
    condition = None if goal is None else {"goal": goal}
    return plan_arrays(planner(of, **options).plan(HERE, condition=condition, seed=7))


def plan_many(by: Planner, **options: Any) -> Arrays:
    """Return plans for three environments in one call."""
    if "goals" in options:
        options["condition"] = {"goal": options.pop("goals")}
    plans = [plan_arrays(one) for one in by.plan_batch(SEEN[0], seeds=[4, 5, 6], **options)]
    return {name: np.stack([one[name] for one in plans]) for name in plans[0]}


def followed(of: str, *, age: int = 4, stride: int = 3) -> Any:
    """Return the rest of plans that environments follow; the last environment has no plan."""
    tokens = model(of).codec.tokens
    plans = np.random.default_rng(8).uniform(-0.7, 0.7, (3, tokens, 4)).astype(np.float32)
    return shift_plans(plans, None, np.array([age, age + 1, -1]), stride)


def drive(
    by: Planner,
    *,
    steps: int = 12,
    starts: Mapping[int, Sequence[int]] | None = None,
    missing: Sequence[int] = (),
    goals: Any = None,
    single: bool = False,
) -> Arrays:
    """Return actions and way-points of some steps; environments `starts[t]` are reset at step t."""
    state = None if goals is None else by.initial_state([7, 8, 9], {"goal": goals})
    actions, waypoints = [], []
    for step in range(steps):
        seen = SEEN[step].copy()
        if step in missing:
            seen[1] = np.nan
        flags = np.isin(np.arange(3), list((starts or {}).get(step, [])))
        if single:
            action, state = by.predict(seen[0], state, flags[:1])
        else:
            action, state = by.predict(seen, state, flags)
        actions.append(array(action))
        waypoints.append(array(state.waypoints))
    return {"actions": np.stack(actions), "waypoints": np.stack(waypoints)}


def explanation(by: Planner, **options: Any) -> Arrays:
    """Return the numbers of an explanation and of its table."""
    import re

    if "goal" in options:
        options["condition"] = {"goal": options.pop("goal")}
    found = explain(by, HERE, seed=5, **options)
    arrays: dict[str, Any] = {}
    names = "scales best level push push_tokens total kept kept_tokens moved low high"
    for name in names.split():
        arrays[name] = getattr(found, name)
    for side in ("guided", "unguided"):
        outcome = getattr(found, side)
        rest = "observations actions energy outside excess log_likelihood standard_error"
        for name in rest.split():
            arrays[f"{side}/{name}"] = getattr(outcome, renamed({name: 0}, NAMES).popitem()[0])
        for name, value in outcome.log_prob.items():
            arrays[f"{side}/log_prob {name}"] = value
    numbers = re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", found.table())
    arrays["table"] = [float(number) for number in numbers]
    return {name: np.array(value) for name, value in arrays.items() if value is not None}


# ------------------------------------------------------------------------- files and trainings


def small_box() -> Any:
    """Return an action space that plans exceed."""
    from gymnasium.spaces import Box as Space

    return Space(np.float32([-0.2, -0.1]), np.float32([0.1, 0.3]))


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def shards(of: TrajectoryDiffusion, **options: Any) -> Arrays:
    """Return all arrays that `generate` writes: of the file and of each shard."""
    settings: dict[str, Any] = {"batch": 8, "steps": 3, "seed": 2} | options
    sampling = SHARDS.replace(**taken(settings, SAMPLING))
    with folder() as place:
        out = place / "made.hdf5"
        generate(of, out=out, sampling=sampling, **settings)
        found = {}
        for file in (out, *sorted(Path(f"{out}.shards").glob("*.hdf5"))):
            with h5py.File(file) as data:
                named = {name: data[name][()] for name in leaves(data)}
            found |= {f"{file.stem}/{name}": array(value) for name, value in named.items()}
    return found


def leaves(data: Any) -> list[str]:
    """Return the names of an HDF5 file's arrays."""
    names: list[str] = []
    data.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return sorted(names)


def in_memory(of: TrajectoryDiffusion, **options: Any) -> Arrays:
    """Return the arrays of `generate` without a file."""
    settings: dict[str, Any] = {"batch": 8, "steps": 3, "seed": 2} | options
    made = generate(of, sampling=SHARDS.replace(**taken(settings, SAMPLING)), **settings)
    return {name: array(value) for name, value in made.fields().items()}


class Watch(Callback):
    """Callback that keeps the raw weights after the last step, and may stop after another step."""

    def __init__(self, *, last: int, stop: int | None = None) -> None:
        self.last, self.stop = last, stop
        self.raw: Arrays = {}

    def on_start(self, trainer: Any, learner: Any) -> None:
        self.learner = learner

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        if step == self.last:
            self.raw = weights(self.learner)
        if step == self.stop:
            raise KeyboardInterrupt


def trained(learner: Any, *, steps: int = 10, stop: int | None = None, **options: Any) -> Arrays:
    """Return averaged and raw weights after a short training, and its history."""
    watch = Watch(last=steps, stop=stop)
    settings: dict[str, Any] = {
        "steps": steps,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "warmup": 2,
        "ema_decay": 0.9,
        "validation": 0.25,
        "validate_every": 5,
        "log_every": 2,
        "device": "cpu",
        "seed": 6,
        "progress": False,
    }
    trainer = Trainer(callbacks=[watch], **(settings | options))
    trainer.fit(learner, episodes())
    found = {f"ema/{name}": value for name, value in weights(learner).items()}
    found |= {f"raw/{name}": value for name, value in watch.raw.items()}
    return found | history(trainer.history)


def history(records: Sequence[Mapping[str, float]]) -> Arrays:
    """Return a history by name, without times; NaN for names that a record lacks."""
    names = sorted({name for record in records for name in record if not name.startswith("time/")})
    return {
        f"history/{name}": np.array([record.get(name, np.nan) for record in records])
        for name in names
    }


def resumed(make: Callable[[], Any], *, steps: int = 20, at: int = 10) -> Arrays:
    """Return the results of a training that is interrupted after `at` steps and resumed."""
    with folder() as place:
        options: dict[str, Any] = {"folder": place, "checkpoint_every": at, "steps": steps}
        try:
            trained(make(), stop=at + 2, **options)
        except KeyboardInterrupt:
            return trained(make(), resume=True, **options)
        raise AssertionError("the training was to break off")


def saved_and_loaded(learner: Any) -> Any:
    """Return a learner that was saved and loaded."""
    with folder() as place:
        learner.save_pretrained(place / "saved")
        return load_learner(place / "saved", device="cpu")


CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


def formats() -> list[str]:
    """Return the names of the stored checkpoint folders."""
    return sorted(place.name for place in CHECKPOINTS.glob("format*"))


def stored(name: str, part: str) -> Any:
    """Return the "model", "value" or "inverse_dynamics" of a stored folder."""
    return load_learner(CHECKPOINTS / name / part, device="cpu")


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings, and seed the global generators within the context."""
    state = np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings(), seeded_torch(seed=0):
        warnings.simplefilter("ignore")
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
