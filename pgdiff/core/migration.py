"""Bring configurations and weights of older formats to the present one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

_KINDS = {
    "schedule": "noise_schedule",
    "levels": "level_distribution",
    "guidance_schedule": "scale_schedule",
}
"""Kinds of registered parts up to format 2, by their present names."""

_PARTS = {("condition", "goal"): {"position": "goal_features"}}
"""Arguments of registered parts up to format 2, by their present names."""

_ARGUMENTS = {
    "segment_value": {"schedule": "noise_schedule"},
    "transition_value": {"slow": "tau"},
    "goal_value": {"slow": "tau", "position": "goal_features"},
    "fitted_q": {"slow": "tau"},
    "iql": {"slow": "tau"},
    "td3_bc": {"slow": "tau"},
}
"""Arguments of learners up to format 2, by their present names."""

_MODULES = {"slow_network": "target_network", "slow_critic": "target_critic"}
_MODULES |= {"slow_actor": "target_actor"}
"""Modules of learners up to format 2, by their present names."""


def migrate_learner(
    described: Mapping[str, Any], tensors: Mapping[str, Tensor], *, number: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description and the weights of a learner in the present format.

    Args:
        described: the learner as its `config.json` describes it.
        tensors: weights by name.
        number: format in which both were written.
    """
    learner, weights = dict(described), dict(tensors)
    if number < 2:
        schedule = learner.get("schedule")
        if isinstance(schedule, dict) and schedule.get("name") == "linear":
            # Format 1 had no rule against schedules that leak; what was trained so must still load.
            learner["schedule"] = {"allow_leak": True, **schedule}
    if number < 3:
        names = _ARGUMENTS.get(str(learner.get("name")), {})
        learner = {names.get(key, key): value for key, value in learner.items()}
        if learner.get("name") == "trajectory_diffusion":
            learner = _model(learner)
        learner = _renamed_kinds(learner)
        weights = {
            ".".join(_MODULES.get(part, part) for part in name.split(".")): tensor
            for name, tensor in weights.items()
        }
    return learner, weights


def _model(learner: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trajectory diffusion model of format 2 with its codec and process."""
    levels = learner.get("levels")
    if isinstance(levels, list):  # format 1 had names, of which there was one
        levels = {"kind": "levels", "name": "sequence"}
    process = {
        "noise_schedule": learner["schedule"],
        "prediction": learner["prediction"],
        "level_distribution": levels or {"kind": "levels", "name": "sequence"},
        "loss_weight": learner.get("loss_weight") or {"kind": "loss_weight", "name": "uniform"},
    }
    inpainting = {
        "patterns": learner.get("known", ["start"]),
        "goal_features": learner.get("position", [0, 1]),
        "zero_at_goal": learner.get("rest", []),
    }
    codec = {
        "layout": learner["layout"],
        "normalizer": learner["normalizer"],
        "inpainting": {"kind": "inpainting", "name": "patterns", **inpainting},
        "observation_layout": learner.get("observation_layout"),
        "action_range": learner.get("action_range"),
    }
    conditions = {
        "conditioners": learner.get("conditions", []),
        "dropout": learner.get("condition_dropout", 0.1),
    }
    return {
        "name": learner["name"],
        "codec": {"kind": "codec", "name": "affine", **codec},
        "denoiser": learner["denoiser"],
        "process": {"kind": "process", "name": "diffusion", **process},
        "conditions": {"kind": "conditioning", "name": "conditions", **conditions},
        "distilled": learner.get("distilled", False),
    }


_PLANNER = {
    "steps": ("sampling", "steps"),
    "solver": ("sampling", "solver"),
    "spacing": ("sampling", "spacing"),
    "levels": ("sampling", "level_schedule"),
    "schedule": ("sampling", "level_schedule"),
    "horizon": ("sampling", "horizon"),
    "clip": ("sampling", "clip"),
    "classifier_free": ("sampling", "classifier_free"),
    "trust_region": ("sampling", "trust_region"),
    "resample": ("sampling", "particles"),
    "monte_carlo": ("sampling", "monte_carlo"),
    "stabilization": ("sampling", "stabilization"),
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
"""Settings of a planner in runs up to format 3, by their present places."""

_OFF = {"replan_every": "open"}
"""Words for None in settings of a planner up to format 3; "none" for all others."""


def _planner(settings: Mapping[str, Any]) -> dict[str, Any]:
    planner: dict[str, Any] = {}
    for key, value in settings.items():
        if value is None:  # the default
            continue
        if value == _OFF.get(key, "none"):
            value = None
        if key == "classifier_free" and isinstance(value, int | float):
            value = {"name": "weighted", "weight": float(value)}
        if key in _PLANNER:
            part, name = _PLANNER[key]
            planner.setdefault(part, {})[name] = value
        elif key not in ("warm_start", "warm_share"):
            planner[key] = value
    level = settings.get("warm_start")
    if isinstance(level, int | float):
        share = settings.get("warm_share")
        warm = {"name": "plan", "level": level, "share": 1.0 if share is None else share}
        planner.setdefault("replanning", {})["warm_start"] = warm
    return planner


_GUIDE = {
    "at": "gradient_at",
    "normalize": "normalize_gradient",
    "position": "goal_features",
    "schedule": "scale_schedule",
    "tokens": "token_weights",
    "trace": "td_lambda",
    "weight": "score_weight",
}
"""Settings of guides in runs up to format 3, by their present names."""

_GUIDE_OFF = {
    "normalize_gradient": "none",
    "scale_schedule": "none",
    "token_weights": "none",
    "fields": "all",
}
"""Words for None in settings of guides up to format 3."""

_NETWORKS = {"value": "value", "return": "value", "critic": "critic", "policy": "agent"}
"""Argument of a guide's network, by the kind of the guide."""

_GUIDES_OF = {
    "transition_value": "value",
    "goal_value": "value",
    "segment_value": "value",
    "iql": "critic",
    "td3_bc": "critic",
    "fitted_q": "critic",
    "cloning": "policy",
}
"""Kind of a guide that runs up to format 3 had of a stage, by the learner of the stage."""


def _guide_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a guide up to format 3 by their present names and words."""
    renamed = {_GUIDE.get(key, key): value for key, value in settings.items() if value is not None}
    return {
        key: None if isinstance(value, str) and value == _GUIDE_OFF.get(key) else value
        for key, value in renamed.items()
    }


def _guide(label: str, settings: Mapping[str, Any], learners: Mapping[str, str]) -> dict[str, Any]:
    """Return a guide up to format 3 with its class and with its network as a reference.

    Args:
        label: name of the guide in the run.
        settings: settings of the guide.
        learners: learner of each stage, by the name of the stage.
    """
    guide = _guide_settings(settings)
    stage, agent = guide.pop("stage", None), guide.pop("agent", None)
    statistics = guide.pop("vec_normalize", None)
    if stage is None and agent is None and label in learners:
        stage = label
    kind = guide.pop("kind", None)
    if kind is None and (label in _NETWORKS or label == "goal"):
        kind = label
    if kind is None and stage is not None:
        kind = _GUIDES_OF.get(learners.get(stage, ""))
    if kind is None:  # a guide that could not be built either
        return guide
    if kind in _NETWORKS and agent is not None:
        reference = {"agent": str(Path(agent).absolute())}  # was relative to the working folder
        if statistics is not None:
            reference["vec_normalize"] = str(Path(statistics).absolute())
        guide[_NETWORKS[kind]] = reference
    elif kind in _NETWORKS and stage is not None:
        guide[_NETWORKS[kind]] = {"stage": stage}
    return {"name": kind, **guide}


_FORMAT_1_PLANNER = {"solver": {"name": "ddim"}, "spacing": {"name": "uniform"}}
"""Settings that a planner had in runs of format 1, where nothing was said."""


def migrate_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `run.json` in the present format.

    Args:
        content: as it was read; its "format" tells in which format it was written.
    """
    run, number = dict(content), content["format"]
    if number < 2:
        run["planner"] = {**_FORMAT_1_PLANNER, **run["planner"]}
    if number < 4:
        run["planner"] = _planner(run["planner"])
        learners = {stage.get("name", ""): stage["learner"] for stage in run["stages"]}
        run["guides"] = {
            label: _guide(label, settings, learners) for label, settings in run["guides"].items()
        }
        run["stages"] = [_stage(stage) for stage in run["stages"]]
    return run


def _stage_of_model(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a stage that trains a model, grouped as they are now."""
    groups: dict[str, dict[str, Any]] = {}
    rest: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in _MODEL_STAGE:
            part, name = _MODEL_STAGE[key]
            if key == "conditions" and isinstance(value, list):
                value = [_condition(settings) for settings in value]
            if value is not None:
                groups.setdefault(part, {})[name] = value
        else:
            rest[key] = value
    return rest | groups


def _condition(settings: Any) -> Any:
    """Return the settings of a condition, given by name or as a mapping, by present names."""
    if not isinstance(settings, dict):
        return settings
    names = _PARTS.get(("condition", str(settings.get("name"))), {})
    return {names.get(key, key): value for key, value in settings.items()}


_MODEL_STAGE = {
    "horizon": ("tokens", "horizon"),
    "stride": ("tokens", "stride"),
    "fields": ("tokens", "fields"),
    "normalizer": ("tokens", "normalizer"),
    "field_scales": ("tokens", "field_scales"),
    "schedule": ("process", "noise_schedule"),
    "prediction": ("process", "prediction"),
    "levels": ("process", "level_distribution"),
    "loss_weight": ("process", "loss_weight"),
    "known": ("inpainting", "patterns"),
    "position": ("inpainting", "goal_features"),
    "rest": ("inpainting", "zero_at_goal"),
    "conditions": ("conditions", "conditioners"),
    "condition_dropout": ("conditions", "dropout"),
}
"""Arguments of a stage that trains a model, up to format 3, by their present places."""


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    names = _ARGUMENTS.get(str(stage["learner"]), {})
    arguments = {names.get(key, key): value for key, value in stage["arguments"].items()}
    if stage["learner"] == "trajectory_diffusion":
        arguments = _stage_of_model(arguments)
    synthetic = dict(stage.get("synthetic") or {})
    if synthetic.get("guide"):
        synthetic["guide"] = _guide_settings(synthetic["guide"])
    return {**stage, "arguments": arguments, "synthetic": synthetic}


def _renamed_kinds(value: Any) -> Any:
    """Return a description with kinds and arguments of its parts by their present names."""
    if isinstance(value, dict):
        names = _PARTS.get((str(value.get("kind")), str(value.get("name"))), {})
        renamed = {names.get(key, key): _renamed_kinds(item) for key, item in value.items()}
        if isinstance(kind := renamed.get("kind"), str):
            renamed["kind"] = _KINDS.get(kind, kind)
        return renamed
    if isinstance(value, list):
        return [_renamed_kinds(item) for item in value]
    return value
