"""Golden entries: groups of numbers that must stay equal, bit for bit, on one machine.

Names of entries and of their arrays never change, even if the API does.
"""

from collections.abc import Callable, Mapping
from typing import Any

import golden_api as api
import numpy as np
import torch

Arrays = dict[str, np.ndarray]
Entry = Callable[[], Arrays]

ENTRIES: dict[str, Entry] = {}


def entry(name: str) -> Callable[[Entry], Entry]:
    """Register an entry."""

    def add(make: Entry) -> Entry:
        if name in ENTRIES:
            raise ValueError(f"There is an entry '{name}' already.")
        ENTRIES[name] = make
        return make

    return add


def joined(parts: Mapping[str, Any]) -> Arrays:
    """Return a flat dict of arrays from a dict of arrays or of dicts of arrays."""
    arrays: Arrays = {}
    for name, part in parts.items():
        if isinstance(part, Mapping):
            arrays |= {f"{name}/{key}": value for key, value in part.items()}
        else:
            arrays[name] = np.asarray(part)
    return arrays


# --------------------------------------------------------------------------------- data, weights


@entry("data")
def data() -> Arrays:
    names = ("causal", "actions", "chunks", "previous", "trajectories", "conditions")
    arrays: dict[str, Any] = {"recording": {k: np.array(v) for k, v in fields().items()}}
    for name in names:
        arrays[f"batch/{name}"] = api.batch_arrays(api.batch(api.model(name)))
    for name in api.LEARNERS:
        arrays[f"batch/{name}"] = api.batch_arrays(api.batch(api.learner(name)))
    for name in (*names, "scaled"):
        model = api.model(name)
        normalized = model.codec.encode(api.batch(model))
        arrays[f"tokens/{name}"] = api.array(normalized)
        arrays[f"back/{name}"] = api.array(model.codec.normalizer.unnormalize(normalized))
    return joined(arrays)


def fields() -> Arrays:
    return api.episodes().fields()


@entry("weights/denoisers")
def weights_denoisers() -> Arrays:
    return joined(
        {
            name: api.weights(api.new_model(denoiser=part, seed=12))
            for name, part in api.DENOISERS.items()
        }
    )


@entry("weights/models")
def weights_models() -> Arrays:
    names = ("conditions", "chunks", "previous", "transitions", "scaled")
    return joined({name: api.weights(api.new_learner(f"model {name}")) for name in names})


@entry("weights/learners")
def weights_learners() -> Arrays:
    return joined({name: api.weights(api.new_learner(name)) for name in api.LEARNERS})


# --------------------------------------------------------------------------------------- samples

SOLVERS: dict[str, Callable[[], Any]] = {
    "ddim": api.DDIM,
    "ddim_half": lambda: api.DDIM(eta=0.5),
    "ddim_full": lambda: api.DDIM(eta=1.0),
    "ddpm": api.DDPM,
    "ddpm_large": lambda: api.DDPM(variance="large"),
    "dpm_first": lambda: api.DPMSolver(order=1),
    "dpm_second": api.DPMSolver,
    "heun": api.Heun,
    "churn": lambda: api.Churn(churn=1.0),
    "churn_ddim": lambda: api.Churn(churn=0.5, low=0.1, high=20.0, solver=api.DDIM()),
    "consistency": lambda: api.Consistency(force=True),
}
SPACINGS: dict[str, Callable[[], Any]] = {
    "uniform": api.UniformSpacing,
    "log_snr": lambda: api.LogSnrSpacing(high=6.0),
    "karras": lambda: api.KarrasSpacing(sigma_min=0.02),
    "trailing": lambda: api.TrailingSpacing(train_steps=64),
}
LEVELS: dict[str, Callable[[], Any]] = {
    "full": api.FullSequence,
    "pyramid": api.Pyramid,
    "pyramid_half": lambda: api.Pyramid(slope=0.5),
    "autoregressive": api.Autoregressive,
    "trapezoid": lambda: api.Trapezoid(slope=2.0),
}


@entry("samples/solvers")
def samples_solvers() -> Arrays:
    names = ("full", "causal", "linear", "flow", "edm")
    arrays: dict[str, Any] = {
        f"{name}/{solver}": api.draw(api.model(name), solver=make())
        for name in names
        for solver, make in SOLVERS.items()
    }
    distilled = api.distilled_model()
    arrays["distilled/consistency"] = api.draw(distilled, solver=api.Consistency())
    return joined(arrays)


@entry("samples/paths")
def samples_paths() -> Arrays:
    return joined(
        {
            f"{name}/{solver}": api.path(api.model(name), solver=SOLVERS[solver]())
            for name in ("linear", "edm")
            for solver in ("ddim", "ddpm", "dpm_second", "heun", "churn")
        }
    )


@entry("samples/schedules")
def samples_schedules() -> Arrays:
    level = torch.linspace(0.0, 1.0, 12)
    arrays: dict[str, Any] = {}
    for name, make in api.NOISE.items():
        noise = make()
        factors = (noise.alpha(level), noise.sigma(level), noise.log_snr(level[1:-1]))
        arrays[f"factors/{name}"] = api.array(torch.cat(factors))
        arrays[f"level_at/{name}"] = api.array(noise.level_at(torch.linspace(-5, 5, 9)))
    for noise_name, prediction in api.PAIRS:
        model = api.model(f"{noise_name} {prediction}")
        arrays[f"{noise_name}/{prediction}/estimates"] = api.estimates(model)
        for solver in ("dpm_second", "ddpm"):
            key = f"{noise_name}/{prediction}/{solver}"
            arrays[key] = api.draw(model, solver=SOLVERS[solver]())
            arrays[f"{key}/free"] = api.draw(model, solver=SOLVERS[solver](), clip=None)
    return joined(arrays)


@entry("samples/spacings")
def samples_spacings() -> Arrays:
    arrays: dict[str, Any] = {}
    for name, make in SPACINGS.items():
        arrays[f"levels/{name}"] = api.levels_of(None, make())
        for model in ("causal", "edm"):
            arrays[f"{model}/{name}"] = api.draw(
                api.model(model), spacing=make(), solver=api.DPMSolver()
            )
    return joined(arrays)


@entry("samples/level_schedules")
def samples_level_schedules() -> Arrays:
    arrays: dict[str, Any] = {}
    for name, make in LEVELS.items():
        arrays[f"levels/{name}"] = api.levels_of(make())
        for solver in ("ddim", "ddpm", "dpm_second", "heun", "churn"):
            for cache in (True, False):
                arrays[f"{name}/{solver}/{'cached' if cache else 'whole'}"] = api.draw(
                    api.model("causal"), levels=make(), solver=SOLVERS[solver](), cache=cache
                )
        for model in ("full", "linear", "flow"):
            arrays[f"{name}/{model}"] = api.draw(api.model(model), levels=make())
        arrays[f"{name}/window"] = api.draw(
            api.model("backbone transformer_window"), levels=make(), spacing=SPACINGS["log_snr"]()
        )
    rows = torch.linspace(1, 0, 6)[:, None].expand(-1, 8).clone()
    rows[1:4, 4:] = 1.0
    arrays["own"] = api.draw(api.model("causal"), levels=rows)
    rows_each = torch.stack([rows, rows**2, torch.linspace(1, 0, 6)[:, None].expand(-1, 8)], dim=1)
    arrays["own_each"] = api.draw(api.model("causal"), levels=rows_each)
    return joined(arrays)


@entry("samples/backbones")
def samples_backbones() -> Arrays:
    arrays: dict[str, Any] = {}
    for name in api.DENOISERS:
        model = api.model(f"backbone {name}")
        arrays[f"{name}/ddim"] = api.draw(model, solver=api.DDIM())
        arrays[f"{name}/ddpm"] = api.draw(model, solver=api.DDPM())
        arrays[f"{name}/estimates"] = api.estimates(model)
    return joined(arrays)


@entry("samples/layouts")
def samples_layouts() -> Arrays:
    names = ("actions", "chunks", "previous", "rewards", "scaled", "trajectories", "transitions")
    arrays: dict[str, Any] = {}
    for name in names:
        given = {} if name not in ("trajectories", "transitions") else {"known": None}
        arrays[name] = api.draw(api.model(name), **given)
        arrays[f"{name}/churn"] = api.draw(api.model(name), solver=SOLVERS["churn"](), **given)
    return joined(arrays)


@entry("samples/sources")
def samples_sources() -> Arrays:
    model = api.model("causal")
    arrays: dict[str, Any] = {
        "one": api.draw(model, rows=4, solver=api.DDPM()),
        "two": api.draw(model, rows=4, sources=2, solver=api.DDPM()),
        "four": api.draw(model, rows=4, sources=4, seed=5, solver=api.DDPM()),
        "shorter": api.draw(model, horizon=5),
        "shorter_pyramid": api.draw(model, horizon=5, levels=api.Pyramid()),
        "with_horizon": api.draw(model.with_horizon(5), levels=api.Pyramid()),
    }
    begin = 0.7 * torch.randn((3, 8, 4), generator=api.generator(9))
    matrix = torch.linspace(0.6, 0, 4)[:, None].expand(-1, 8)
    arrays["started"] = api.draw(model, start=begin, levels=matrix)
    return joined(arrays)


@entry("samples/known")
def samples_known() -> Arrays:
    arrays: dict[str, Any] = {}
    values = torch.linspace(-0.6, 0.6, 3 * 8 * 4).reshape(3, 8, 4)
    masks = {"none": torch.zeros(3, 8, 4, dtype=torch.bool)}
    for name in ("past", "middle", "part", "both", "ragged"):
        masks[name] = torch.zeros(3, 8, 4, dtype=torch.bool)
    masks["past"][:, :3] = True
    masks["middle"][:, 4] = True
    masks["part"][:, 0] = masks["part"][:, 5, :2] = True
    masks["both"][:, 0] = masks["both"][:, -1] = True
    for row in range(3):
        masks["ragged"][row, : row + 1] = True
    for name, mask in masks.items():
        for model in ("full", "causal"):
            for solver in ("ddim", "ddpm", "heun"):
                arrays[f"{name}/{model}/{solver}"] = api.draw(
                    api.model(model), known=api.Known(mask, values), solver=SOLVERS[solver]()
                )
    arrays["nothing"] = api.draw(api.model("causal"), known=None)
    for arrival in (False, True):
        known = api.start_goal(api.model("goals"), arrival=arrival)
        arrays[f"goal/{arrival}"] = api.draw(api.model("goals"), known=known)
    known = api.start_goal(api.model("causal"))
    arrays["goal/trapezoid"] = api.draw(
        api.model("causal"), known=known, levels=api.Trapezoid(slope=1.0)
    )
    return joined(arrays)


@entry("samples/observed")
def samples_observed() -> Arrays:
    arrays: dict[str, Any] = {}
    values = torch.linspace(-0.6, 0.6, 3 * 8 * 4).reshape(3, 8, 4)
    masks = {name: torch.zeros(3, 8, 4, dtype=torch.bool) for name in ("first", "past", "part")}
    masks["first"][:, 0] = True
    masks["past"][:, :3] = True
    masks["part"][:, 0, :2] = masks["part"][:, 3, 1:] = True
    levels = {"little": 0.1, "much": 0.45, "each": torch.tensor([0.1, 0.3, 0.0])}
    for name, mask in masks.items():
        for strength, level in levels.items():
            for solver in ("ddim", "ddpm", "heun", "churn"):
                arrays[f"{name}/{strength}/{solver}"] = api.draw(
                    api.model("causal"),
                    known=None,
                    observed=api.Observed(mask, values, level),
                    solver=SOLVERS[solver](),
                    levels=api.Pyramid(),
                )
    arrays["linear"] = api.draw(
        api.model("linear"), known=None, observed=api.Observed(masks["past"], values, 0.2)
    )
    return joined(arrays)


@entry("samples/rollouts")
def samples_rollouts() -> Arrays:
    model, options = api.model("causal"), {"levels": api.Pyramid()}
    later = api.HistoryGuidance.vanilla(1.5)
    return joined(
        {
            "half": api.rolled(model),
            "pyramid": api.rolled(model, **options),
            "context": api.rolled(model, context=6, horizon=7, **options),
            "whole": api.rolled(model, cache=False, **options),
            "history": api.rolled(model, history=later, context=3),
            "ddpm": api.rolled(model, solver=api.DDPM(), stabilization=0.05),
            "shorter": api.rolled(model, tokens=5),
            "until": api.rolled(
                model, tokens=40, until=lambda made: made.observations[..., 0] > -5.0
            ),
            "chunks": api.rolled(api.model("chunks")),
            "previous": api.rolled(api.model("previous"), **options),
            "guided": api.rolled(model, guidance=[api.Guidance(energy=api.energy, scale=0.3)]),
        }
    )


def condition_values(name: str) -> dict[str, Any]:
    """Return raw values of the conditions of a model."""
    value = {"return": torch.tensor([[6.0], [4.0], [8.0]]), "goal": torch.tensor([api.GOAL])}
    if name == "conditions":
        return {**value, "class": torch.tensor([[2.0]])}
    return {name: value[name]}


@entry("samples/conditions")
def samples_conditions() -> Arrays:
    arrays: dict[str, Any] = {}
    for name in ("return", "goal", "conditions"):
        model = api.model(name)
        arrays[f"{name}/none"] = api.draw(model)
        arrays[f"{name}/estimates"] = api.estimates(model, condition_values(name))
        for label, options in {
            "plain": {},
            "absent": {"weight": 0.0},
            "strong": {"weight": 2.5},
            "away": {"weight": -1.0},
            "rescaled": {"weight": 2.5, "rescale": 0.7},
        }.items():
            for solver in ("ddim", "dpm_second"):
                arrays[f"{name}/{label}/{solver}"] = api.draw(
                    model,
                    condition=api.condition_of(condition_values(name)),
                    classifier_free=api.ClassifierFree(**options),
                    solver=SOLVERS[solver](),
                )
    arrays["pyramid"] = api.draw(
        api.model("conditions"),
        condition=api.condition_of(condition_values("conditions")),
        classifier_free=api.ClassifierFree(weight=2.0),
        levels=api.Pyramid(),
    )
    return joined(arrays)


@entry("samples/history")
def samples_history() -> Arrays:
    mask = torch.zeros(1, 8, 4, dtype=torch.bool)
    mask[:, :4] = True
    known = api.Known(mask, torch.linspace(-0.6, 0.6, 3 * 8 * 4).reshape(3, 8, 4))
    views = (api.HistoryView(weight=0.7, last=2), api.HistoryView(weight=0.8, level=0.4))
    ways = {
        "none": None,
        "conditional": api.HistoryGuidance.conditional(),
        "vanilla": api.HistoryGuidance.vanilla(2.0),
        "fractional": api.HistoryGuidance.fractional(1.8, level=0.5),
        "temporal": api.HistoryGuidance.temporal({1: 0.5, 3: 0.9}),
        "views": api.HistoryGuidance(views=views),
    }
    arrays: dict[str, Any] = {}
    for name, history in ways.items():
        for schedule in ("full", "pyramid"):
            arrays[f"{name}/{schedule}"] = api.draw(
                api.model("causal"), known=known, history=history, levels=LEVELS[schedule]()
            )
    guide = api.Guidance(energy=api.energy, scale=0.3, at="denoiser")
    arrays["guided"] = api.draw(
        api.model("causal"), known=known, history=ways["vanilla"], guidance=[guide]
    )
    return joined(arrays)


# -------------------------------------------------------------------------------------- guidance

RULES: dict[str, Callable[[], Any]] = {
    "score": api.Score,
    "diffuser": api.DiffuserRule,
    "diffusion_forcing": api.DiffusionForcingRule,
    "policy_guided": api.PolicyGuidedRule,
}
PLACES = {
    "score": ("x0", "x", "denoiser"),
    "diffuser": ("x", "x0"),
    "diffusion_forcing": ("denoiser", "x"),
    "policy_guided": ("x", "x0"),
}
BUMPS: dict[str, Callable[[], Any]] = {
    "interval": lambda: api.Interval(low=0.2, high=0.8),
    "power": lambda: api.Power(exponent=1.5),
    "sine_bump": api.SineBump,
}


@entry("samples/guidance_rules")
def samples_guidance_rules() -> Arrays:
    arrays: dict[str, Any] = {}
    for rule, places in PLACES.items():
        for at in places:
            for solver in ("ddim", "ddpm", "heun", "dpm_second", "churn"):
                guide = api.Guidance(energy=api.energy, at=at, scale=0.3, rule=RULES[rule]())
                arrays[f"{rule}/{at}/{solver}"] = api.draw(
                    api.model("causal"), guidance=[guide], solver=SOLVERS[solver](), steps=6
                )
    for model in ("linear", "flow", "edm"):
        for at in ("x0", "x", "denoiser"):
            guide = api.Guidance(energy=api.energy, at=at, scale=0.3)
            arrays[f"{model}/{at}"] = api.draw(api.model(model), guidance=[guide])
    return joined(arrays)


@entry("samples/guidance_settings")
def samples_guidance_settings() -> Arrays:
    mask = torch.linspace(0, 1, 32).reshape(8, 4)
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "none": {"scale": 0.0},
        "step": {"normalize": "step"},
        "plan": {"normalize": "plan"},
        "mask": {"mask": mask},
        "factors": {"factors": torch.tensor([0.0, 0.5, 2.0])},
        "noisy": {"energy": api.noisy_energy},
        "floor": {"rule": api.Score(floor=0.3)},
        **{name: {"schedule": make()} for name, make in BUMPS.items()},
    }
    arrays: dict[str, Any] = {}
    for name, settings in options.items():
        for at in ("x0", "x", "denoiser"):
            guide = api.Guidance(**({"energy": api.energy, "at": at, "scale": 0.4} | settings))
            arrays[f"{name}/{at}"] = api.draw(api.model("causal"), guidance=[guide], steps=6)
            arrays[f"{name}/{at}/pyramid"] = api.draw(
                api.model("causal"), guidance=[guide], steps=4, levels=api.Pyramid()
            )
    two = [
        api.Guidance(energy=api.energy, at="x0", scale=0.3, name="one"),
        api.Guidance(energy=api.noisy_energy, at="x", scale=0.2, name="two"),
        api.Guidance(energy=api.noisy_energy, at="denoiser", scale=0.2, name="three"),
    ]
    arrays["several"] = api.path(api.model("full"), guidance=two)
    return joined(arrays)


@entry("samples/trust_region")
def samples_trust_region() -> Arrays:
    regions = {
        "default": api.TrustRegion(),
        "radius": api.TrustRegion(radius=0.2, nats=None),
        "nats": api.TrustRegion(radius=None, nats=0.02),
        "plan": api.TrustRegion(radius=0.2, nats=0.02, per="plan"),
    }
    arrays: dict[str, Any] = {}
    for name, region in regions.items():
        for at in ("x0", "x", "denoiser"):
            guide = api.Guidance(energy=api.energy, at=at, scale=3.0)
            for model in ("causal", "scaled"):
                arrays[f"{name}/{at}/{model}"] = api.draw(
                    api.model(model), guidance=[guide], trust_region=region
                )
    return joined(arrays)


@entry("samples/resample")
def samples_resample() -> Arrays:
    arrays: dict[str, Any] = {}
    for share in (0.5, 1.0):
        for solver in ("ddpm", "ddpm_large", "ddim_full", "ddim_half"):
            for at in ("x0", "denoiser"):
                guide = api.Guidance(energy=api.energy, at=at, scale=1.5)
                arrays[f"{share}/{solver}/{at}"] = api.draw(
                    api.model("causal"),
                    rows=8,
                    sources=2,
                    guidance=[guide],
                    solver=SOLVERS[solver](),
                    resample=api.Resample(threshold=share),
                )
    return joined(arrays)


@entry("samples/monte_carlo")
def samples_monte_carlo() -> Arrays:
    arrays: dict[str, Any] = {}
    futures = {
        "default": api.MonteCarlo(),
        "one": api.MonteCarlo(futures=1, steps=1),
        "shared": api.MonteCarlo(futures=3, steps=2, shared=True),
    }
    for name, part in futures.items():
        for at in ("x0", "denoiser"):
            for schedule in ("full", "pyramid", "autoregressive"):
                guide = api.Guidance(energy=api.energy, at=at, scale=0.3)
                arrays[f"{name}/{at}/{schedule}"] = api.draw(
                    api.model("causal"),
                    guidance=[guide],
                    monte_carlo=part,
                    levels=LEVELS[schedule](),
                    steps=3,
                )
    return joined(arrays)


@entry("samples/limits")
def samples_limits() -> Arrays:
    arrays: dict[str, Any] = {}
    guide = api.Guidance(energy=lambda x, level: x.sum(dim=(1, 2)), scale=2.0)
    for name, clip in {"auto": "auto", "none": None, "tight": 0.4}.items():
        for model in ("causal", "scaled", "trajectories"):
            for label, guidance in {"free": [], "guided": [guide]}.items():
                given = {"known": None} if model == "trajectories" else {}
                arrays[f"clip/{name}/{model}/{label}"] = api.draw(
                    api.model(model), clip=clip, guidance=guidance, **given
                )
    for level in (0.0, 0.02, 0.2):
        for schedule in ("full", "pyramid"):
            for cache in (True, False):
                arrays[f"stabilization/{level}/{schedule}/{cache}"] = api.draw(
                    api.model("causal"),
                    stabilization=level,
                    levels=LEVELS[schedule](),
                    cache=cache,
                )
    return joined(arrays)


@entry("samples/precision")
def samples_precision() -> Arrays:
    model = api.stirred_model(**api.MODELS["causal"]).double()
    return joined(
        {name: api.draw(model, solver=SOLVERS[name]()) for name in ("ddim", "ddpm", "dpm_second")}
    )


@entry("likelihood")
def likelihood() -> Arrays:
    arrays: dict[str, Any] = {}
    for name in ("full", "linear", "flow", "edm", "scaled"):
        arrays[f"{name}/exact"] = api.likelihood(api.model(name))
        arrays[f"{name}/hutchinson"] = api.likelihood(
            api.model(name), method="hutchinson", probes=3, seed=2
        )
    arrays["goal"] = api.likelihood(api.model("causal"), known="start_goal")
    arrays["none"] = api.likelihood(api.model("causal"), known="none", noise_min=1e-2)
    condition = api.condition_of(condition_values("return"))
    arrays["condition"] = api.likelihood(api.model("return"), condition=condition)
    arrays["evaluation"] = api.likelihoods(api.model("trajectories"))
    for name in api.AGENTS:
        arrays[f"policy/{name}"] = api.policy_likelihoods(api.learner(name))
    return joined(arrays)


# ---------------------------------------------------------------------------------------- losses

LAWS: dict[str, Callable[[], Any]] = {
    "sequence": api.SequenceLevels,
    "independent": api.IndependentLevels,
    "forcing": lambda: api.ForcingLevels(cut=0.4),
    "mixture": lambda: api.MixtureLevels(
        parts=(api.SequenceLevels(), api.IndependentLevels()), weights=(1.0, 2.0)
    ),
    "log_normal": api.LogNormalLevels,
    "log_normal_token": lambda: api.LogNormalLevels(mean=-0.5, std=1.0, per_token=True),
}
WEIGHTS: dict[str, Callable[[], Any]] = {
    "uniform": api.UniformWeight,
    "x0": api.CleanWeight,
    "min_snr": api.MinSnrWeight,
    "edm": lambda: api.EDMWeight(sigma_min=0.05),
    "fused_snr": api.FusedSnrWeight,
}


@entry("losses/levels")
def losses_levels() -> Arrays:
    arrays: dict[str, Any] = {}
    for name, make in LAWS.items():
        model = api.stirred_model(
            denoiser=api.DENOISERS["transformer_causal"], known=api.STARTS, levels=make()
        )
        arrays[name] = api.losses(model)
        drawn = make().draw(
            7, 8, noise_schedule=model.process.noise_schedule, generator=api.generator(1)
        )
        arrays[f"{name}/drawn"] = api.array(drawn)
    return joined(arrays)


@entry("losses/weights")
def losses_weights() -> Arrays:
    return joined(
        {
            f"{name}/{prediction}": api.losses(
                api.stirred_model(
                    levels=api.IndependentLevels(),
                    loss_weight=make(),
                    prediction=api.PREDICTIONS[prediction](),
                )
            )
            for name, make in WEIGHTS.items()
            for prediction in ("x0", "v", "edm")
        }
    )


@entry("losses/models")
def losses_models() -> Arrays:
    names = (
        *(f"{noise} {prediction}" for noise, prediction in api.PAIRS),
        *("goals", "actions", "chunks", "previous", "rewards", "scaled"),
        *("return", "goal", "conditions", "trajectories", "transitions"),
        *(f"backbone {name}" for name in api.DENOISERS),
    )
    return joined(
        {
            name.replace(" ", "/"): api.losses(api.stirred_model(**api.MODELS[name]))
            for name in names
        }
    )


@entry("losses/learners")
def losses_learners() -> Arrays:
    return joined({name: api.losses(api.stir(api.new_learner(name))) for name in api.LEARNERS})


# ------------------------------------------------------------------------------ critics and agents


@entry("critics")
def critics() -> Arrays:
    arrays: dict[str, Any] = {}
    model = api.model("full")
    made = api.segment(model)
    level = torch.linspace(0.1, 0.9, 3)[:, None].expand(-1, 8)
    with torch.no_grad():
        for name in ("transition_value", "transition_value_log"):
            value = api.learner(name)
            arrays[f"{name}/value"] = api.array(value.value(made.observations))
        for trace in (0.0, 0.7, 1.0):
            value = api.learner("transition_value")
            arrays[f"transition_value/energy/{trace}"] = api.array(
                value.objective(made, td_lambda=trace)
            )
        arrays["segment_value"] = api.array(api.learner("segment_value").objective(made, level))
        aimed = api.segment(model, goal=True)
        for name in ("goal_value", "goal_value_latent"):
            for trace in (0.0, 0.7, 1.0):
                value = api.learner(name).objective(aimed, td_lambda=trace)
                arrays[f"{name}/{trace}"] = api.array(value)
    return joined(arrays)


@entry("agents")
def agents() -> Arrays:
    arrays: dict[str, Any] = {}
    for name in api.AGENTS:
        arrays[name] = api.act(api.learner(name))
        arrays[f"{name}/second"] = api.act(api.learner(name).member(1))
        arrays[f"{name}/drawn"] = api.drawn_actions(api.learner(name).member(0))
    arrays["imagined"] = api.imagined(api.learner("cloning"))
    return joined(arrays)


@entry("agents/sb3")
def agents_sb3() -> Arrays:
    arrays: dict[str, Any] = {}
    for name in ("SAC", "TD3", "TQC", "PPO"):
        agent = api.sb3_agent(name)
        arrays[name] = api.act(agent)
        if name != "PPO":
            arrays[f"{name}/guided"] = api.plan("actions", guides=[api.Critic(agent, scale=0.2)])
        narrow = {"deviation": 0.4} if name == "TD3" else {}
        guide = api.Policy(agent, scale=0.2, **narrow)
        arrays[f"{name}/policy"] = api.plan("actions", guides=[guide])
    return joined(arrays)


# ----------------------------------------------------------------------------------------- plans


def costs() -> dict[str, Any]:
    return {
        "disc": api.Disc(center=(0.0, -0.2), radius=0.5, margin=0.1),
        "disc_points": api.Disc(center=(-4.0, 1.0), radius=1.5, path=False),
        "box": api.Box(low=(-0.3, -0.6), high=(0.4, 0.2), margin=0.1),
        "speed": api.SpeedLimit(0.1),
        "own": lambda segment: segment.observations[..., 2:].square().sum(dim=-1),
    }


@entry("plans/guides")
def plans_guides() -> Arrays:
    iql, likes = api.learner("iql"), api.Likes()
    segments = api.learner("segment_value")
    of_observations: dict[str, Any] = {
        "none": [],
        "value": [api.value_guide()],
        "value_scores_only": [api.value_guide(scale=0.0)],
        "value_plain": [api.value_guide(transform="none", trace=1.0, scale=20.0)],
        "value_x": [api.value_guide(at="x")],
        "value_denoiser": [api.value_guide(at="denoiser")],
        "segment_value": [api.Value(segments, scale=0.5, transform="none")],
        "segment_value_x0": [api.Value(segments, scale=0.5, transform="none", at="x0")],
        "return": [api.Return(segments, scale=0.1)],
        "return_target": [api.Return(segments, target=3.0, width=2.0, scale=0.5)],
        "goal_end": [api.Goal(api.GOAL, width=0.5)],
        "goal_any": [api.Goal([2.0, 2.0], width=2.0, where="any", scale=5.0)],
        "goal_every": [api.Goal([0.1], position=(1,), width=0.5, where="every")],
        **{
            f"constraint_{name}": [api.Constraint(cost, scale=2.0)]
            for name, cost in costs().items()
        },
        "several": [api.value_guide(), api.Goal(api.GOAL, scale=0.3, weight=0.5)],
        "sum": [0.5 * api.value_guide() + api.Goal(api.GOAL, scale=0.3)],
        "sum_normalized": [
            api.Sum(
                [api.value_guide(normalize="plan"), api.Constraint(costs()["disc"])],
                weights=[1.0, -0.5],
                scale=0.3,
            )
        ],
    }
    of_actions: dict[str, Any] = {
        "critic": [api.Critic(iql, scale=0.3)],
        "critic_mean": [api.Critic(iql, scale=0.3, heads="mean", where="discounted")],
        "critic_end": [api.Critic(likes, scale=0.3, where="end", transform="log")],
        "critic_td3": [api.Critic(api.learner("td3_bc"), scale=0.3)],
        "policy": [api.Policy(iql, scale=0.3)],
        "policy_own": [api.Policy(likes, scale=0.3, temperature=2.0)],
        "policy_cloning": [api.Policy(api.learner("cloning"), scale=0.2, fields=None)],
        "policy_td3": [api.Policy(api.learner("td3_bc"), scale=0.2)],
        "policy_published": [
            api.Policy(likes, scale=0.1, at="x", rule="policy_guided", schedule="sine_bump")
        ],
        "action_limit": [api.Constraint(api.ActionLimit(-0.3, 0.4), scale=2.0)],
    }
    arrays: dict[str, Any] = {
        f"observations/{name}": api.plan("full", guides=guides)
        for name, guides in of_observations.items()
    }
    for model in ("actions", "chunks", "previous"):
        for name, guides in of_actions.items():
            arrays[f"{model}/{name}"] = api.plan(model, guides=guides)
    arrays["rewards/return"] = api.plan("rewards", guides=[api.Return(scale=0.3, discount=0.9)])
    arrays["rewards/denoiser"] = api.plan("rewards", guides=[api.Return(scale=0.3, at="denoiser")])
    return joined(arrays)


@entry("plans/rules")
def plans_rules() -> Arrays:
    arrays: dict[str, Any] = {}
    for rule, places in PLACES.items():
        for at in places:
            guide = api.value_guide(rule=rule, at=at, scale=2.0)
            arrays[f"{rule}/{at}"] = api.plan("causal", guides=[guide])
    for name, make in BUMPS.items():
        arrays[f"schedule/{name}"] = api.plan("causal", guides=[api.value_guide(schedule=make())])
    for name, options in {
        "step": {"normalize": "step", "scale": 0.5},
        "plan": {"normalize": "plan"},
        "tokens": {"tokens": tuple(np.linspace(0.0, 1.0, 8).tolist())},
        "fields": {"fields": ("observations",), "trace": 0.0},
    }.items():
        arrays[name] = api.plan("chunks", guides=[api.value_guide(**options)])
    return joined(arrays)


@entry("plans/settings")
def plans_settings() -> Arrays:
    guides = [api.value_guide()]
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "steps": {"steps": 8, "candidates": 2},
        "uniform": {"spacing": api.UniformSpacing()},
        "karras": {"spacing": api.KarrasSpacing(sigma_min=0.05)},
        "no_clip": {"clip": None},
        "clip": {"clip": 0.5},
        "trust_region": {"trust_region": api.TrustRegion(radius=0.1)},
        "scale_factors": {"scale_factors": (0.0, 1.0, 4.0)},
        "plausibility": {"plausibility": api.Plausibility(limit=2.0)},
        "plausibility_features": {
            "plausibility": api.Plausibility(limit=0.6, tokens=None, features=(0, 1), pairs=2)
        },
        "resample": {"resample": api.Resample(), "solver": api.DDPM()},
        "stabilization": {"stabilization": 0.05},
        "monte_carlo": {
            "guides": [api.value_guide(at="denoiser")],
            "monte_carlo": api.MonteCarlo(futures=2, steps=2),
            "schedule": api.Pyramid(),
            "solver": api.DDIM(),
        },
        "horizon": {"horizon": 5},
        "noisy": {"observation_level": 0.2},
        "noisy_pyramid": {"observation_level": 0.3, "schedule": api.Pyramid()},
        **{f"schedule_{name}": {"schedule": make()} for name, make in LEVELS.items()},
        **{
            f"solver_{name}": {"solver": SOLVERS[name]()}
            for name in ("ddim", "ddim_full", "ddpm", "heun", "churn", "consistency")
        },
    }
    return joined(
        {
            name: api.plan("causal", **({"guides": guides} | settings))
            for name, settings in options.items()
        }
    )


@entry("plans/goals")
def plans_goals() -> Arrays:
    values = {name: api.learner(name) for name in ("goal_value", "goal_value_latent")}
    arrays: dict[str, Any] = {
        "held": api.plan("goals", goal=api.GOAL),
        "held_guided": api.plan("goals", goal=api.GOAL, guides=[api.value_guide()]),
        "not_held": api.plan("goals", goal=api.GOAL, hold_goal=False),
        "arrivals": api.plan("goals", goal=api.GOAL, arrivals=[3, 5, 7]),
        "told": api.plan("full", goal=api.GOAL, guides=[api.Goal(width=0.5)], hold_goal=False),
        "told_and_held": api.plan("full", goal=api.GOAL, guides=[api.Goal(width=0.5)]),
        "trapezoid": api.plan("causal", goal=api.GOAL, schedule=api.Trapezoid()),
        "plausible": api.plan("goals", goal=api.GOAL, plausibility=api.Plausibility()),
    }
    for name, value in values.items():
        for hold in (True, False):
            arrays[f"{name}/{hold}"] = api.plan(
                "goals", goal=api.GOAL, hold_goal=hold, guides=[api.Value(value, scale=0.5)]
            )
    return joined(arrays)


@entry("plans/conditions")
def plans_conditions() -> Arrays:
    strong = api.ClassifierFree(weight=2.0, rescale=0.3)
    return joined(
        {
            "return": api.plan("return", condition={"return": 7.0}),
            "strong": api.plan("return", condition={"return": 7.0}, classifier_free=strong),
            "guided": api.plan("return", condition={"return": 7.0}, guides=[api.value_guide()]),
            "goal": api.plan("goal", goal=api.GOAL, classifier_free=strong),
            "goal_fixed": api.plan("goal", condition={"goal": api.GOAL}),
            "all": api.plan("conditions", condition={"return": 5.0, "goal": api.GOAL, "class": 1}),
        }
    )


@entry("plans/batches")
def plans_batches() -> Arrays:
    guides = [api.value_guide()]
    kept = {"guides": guides, "keep_plan": True}
    warm = {"guides": guides, "warm_start": 0.5, "warm_share": 0.5}
    both = {**kept, **warm, "observation_level": 0.2}
    previous = api.followed("causal")
    goals = np.array([api.GOAL] * 3, np.float32)
    return joined(
        {
            "plain": api.plan_many(api.planner("causal", guides=guides)),
            "full": api.plan_many(api.planner("full", guides=guides)),
            "levels": api.plan_many(api.planner("causal"), levels=np.array([0.0, 0.2, 0.4])),
            "kept": api.plan_many(api.planner("causal", **kept), previous=previous),
            "warm": api.plan_many(api.planner("causal", **warm), previous=previous),
            "warm_full": api.plan_many(api.planner("full", **warm), previous=previous),
            "both": api.plan_many(api.planner("causal", **both), previous=previous),
            "goals": api.plan_many(api.planner("goals", arrivals=[4, 7]), goals=goals),
        }
    )


RESETS = {0: [0, 1, 2], 4: [1], 7: [0, 2]}


@entry("plans/predict")
def plans_predict() -> Arrays:
    inverse, plan_actions = api.learner("inverse_dynamics"), "actions"
    goals = np.array([[0.1, 0.2], [-0.3, 0.4], [0.5, -0.5]], np.float32)
    guides, every = [api.value_guide()], {"replan_every": 3}
    guided = {"guides": guides, **every}
    noisy = {"observation_level": 0.2, "schedule": api.Pyramid(), "solver": api.DDIM()}
    cases: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "inverse": ("full", {"controller": inverse, **guided}, {}),
        "inverse_resets": ("full", {"controller": inverse, **guided}, {"starts": RESETS}),
        "single": ("full", {"controller": inverse, **guided}, {"single": True}),
        "open_loop": ("full", {"controller": inverse, "replan_every": None}, {}),
        "tracker": ("full", {"controller": api.ToWaypoint(), "lookahead": 2, **guided}, {}),
        "own": ("actions", {"controller": plan_actions, **every}, {"starts": RESETS}),
        "own_chunks": ("chunks", {"controller": plan_actions, **every}, {}),
        "own_previous": ("previous", {"controller": plan_actions, **every}, {}),
        "kept": ("full", {"controller": inverse, "keep_plan": True, **guided}, {"starts": RESETS}),
        "warm": (
            "causal",
            {"controller": inverse, "keep_plan": True, "warm_start": 0.4, **guided},
            {"starts": RESETS},
        ),
        "warm_chunks": ("chunks", {"controller": plan_actions, "warm_start": 0.4, **every}, {}),
        "noisy": ("causal", {"controller": inverse, **noisy, **guided}, {}),
        "noisy_context": (
            "previous",
            {"controller": inverse, "context": 4, **noisy, **guided},
            {"starts": RESETS},
        ),
        "noisy_context_alone": (
            "causal",
            {"controller": inverse, "context": 4, **noisy, **guided},
            {},
        ),
        "missing": (
            "previous",
            {"controller": inverse, "context": 4, "missing_level": 0.4, **noisy, **guided},
            {"missing": [2, 5, 6]},
        ),
        "missing_alone": (
            "causal",
            {"controller": inverse, "missing_level": 0.4, **guided},
            {"missing": [2, 5, 6]},
        ),
        "goals": ("goals", {"controller": inverse, **guided}, {"goals": goals}),
        "goal_value": (
            "goals",
            {
                "controller": inverse,
                "guides": [api.Value(api.learner("goal_value"), scale=0.5)],
                "hold_goal": False,
                **every,
            },
            {"goals": goals, "starts": RESETS},
        ),
    }
    arrays: dict[str, Any] = {}
    for name, (model, options, how) in cases.items():
        planner = api.planner(model, **({"candidates": 3, "steps": 3} | options))
        arrays[name] = api.drive(planner, **how)
    return joined(arrays)


@entry("explanations")
def explanations() -> Arrays:
    disc = api.Constraint(costs()["disc"], scale=1.0)
    policy = api.Policy(api.learner("iql"), scale=0.3)
    denoiser = api.value_guide(at="denoiser", name="through")
    cases: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
        "value": ("full", {"guides": [api.value_guide()]}, {"likelihood": True}),
        "several": ("causal", {"guides": [api.value_guide(), disc, denoiser]}, {}),
        "agents": (
            "actions",
            {"guides": [policy, disc], "trust_region": api.TrustRegion(radius=0.2)},
            {"behaviour": api.learner("cloning"), "action_space": api.small_box()},
        ),
        "pyramid": ("chunks", {"guides": [policy], "schedule": api.Pyramid()}, {}),
        "goal": ("goals", {"guides": [api.value_guide()]}, {"goal": api.GOAL}),
    }
    return joined(
        {
            name: api.explanation(api.planner(model, **options), **how)
            for name, (model, options, how) in cases.items()
        }
    )


# -------------------------------------------------------------------------- shards and trainings


@entry("shards")
def shards() -> Arrays:
    model, single = api.model("trajectories"), api.model("transitions")
    guide = api.Policy(api.Likes(), scale=0.1, at="x", rule="policy_guided", schedule="sine_bump")
    return joined(
        {
            "plain": api.shards(model, transitions=60),
            "guided": api.shards(model, transitions=60, guides=[guide], workers=1),
            "iql": api.shards(
                model,
                transitions=60,
                guides=[api.Policy(api.learner("iql"), scale=0.1)],
                solver=api.DDIM(),
                spacing=api.LogSnrSpacing(high=6.0),
                trust_region=api.TrustRegion(),
            ),
            "transitions": api.shards(single, transitions=16, guides=[guide]),
            "memory": api.in_memory(single, transitions=16, solver=api.DDPM()),
        }
    )


@entry("trainings/models")
def trainings_models() -> Arrays:
    names = (
        *("full", "causal", "goals", "chunks", "conditions", "transitions"),
        *("backbone temporal_unet", "linear v", "linear epsilon", "edm edm", "flow flow"),
    )
    return joined(
        {name.replace(" ", "/"): api.trained(api.new_learner(f"model {name}")) for name in names}
    )


@entry("trainings/learners")
def trainings_learners() -> Arrays:
    return joined({name: api.trained(api.new_learner(name)) for name in api.LEARNERS})


@entry("trainings/resumed")
def trainings_resumed() -> Arrays:
    names = ("model causal", "iql", "goal_value")
    arrays: dict[str, Any] = {}
    for name in names:
        key = name.replace(" ", "/")
        arrays[key] = api.resumed(lambda name=name: api.new_learner(name))
        arrays[f"{key}/whole"] = api.trained(api.new_learner(name), steps=20)
    return joined(arrays)


@entry("trainings/used")
def trainings_used() -> Arrays:
    model, value = api.new_learner("model causal"), api.new_learner("transition_value")
    for learner in (model, value):
        api.trained(learner, steps=15, clip_norm=None, weight_decay=0.01)
    guides = [api.Value(value, scale=5.0, transform="none")]
    return joined(
        {
            "sample": api.draw(model, solver=api.DDPM()),
            "plan": api.plan(model, guides=guides),
            "plan_pyramid": api.plan(model, guides=guides, schedule=api.Pyramid()),
        }
    )


# --------------------------------------------------------------------------------------- loading


@entry("loading/formats")
def loading_formats() -> Arrays:
    arrays: dict[str, Any] = {}
    for name in api.formats():
        parts = ("model", "value", "inverse_dynamics")
        model, value, inverse = (api.stored(name, part) for part in parts)
        guides = [api.Value(value, scale=0.5)]
        plain = {"solver": api.DDIM(), "spacing": api.UniformSpacing()}
        acting = {"controller": inverse, "guides": guides, "replan_every": 3}
        arrays[name] = {
            **{f"weights/{key}": array for key, array in api.weights(model).items()},
            **{f"value/{key}": array for key, array in api.weights(value).items()},
            "sample": api.draw(model),
            "sample_ddpm": api.draw(model, solver=api.DDPM()),
            "sample_pyramid": api.draw(model, levels=api.Pyramid()),
            "estimates": api.estimates(model),
            **{f"plan/{k}": v for k, v in api.plan(model, guides=guides).items()},
            **{f"plain/{k}": v for k, v in api.plan(model, guides=guides, **plain).items()},
            **{f"drive/{k}": v for k, v in api.drive(api.planner(model, **acting)).items()},
        }
    for name in api.formats_with("return"):
        arrays[f"{name}/return"] = api.plan(
            api.stored(name, "model"),
            condition={"return": 4.0},
            classifier_free=api.ClassifierFree(weight=1.5),
        )
    return joined(arrays)


@entry("loading/saved")
def loading_saved() -> Arrays:
    arrays: dict[str, Any] = {}
    for name in ("causal", "conditions", "scaled", "trajectories"):
        made = api.saved_and_loaded(api.stirred_model(**api.MODELS[name]))
        given = {"known": None} if name == "trajectories" else {}
        arrays[f"model/{name}"] = api.draw(made, **given)
    for name in api.LEARNERS:
        arrays[name] = api.weights(api.saved_and_loaded(api.stir(api.new_learner(name))))
    for name in api.AGENTS:
        again = api.saved_and_loaded(api.stir(api.new_learner(name), size=0.3))
        arrays[f"{name}/acts"] = api.act(again)
    return joined(arrays)
