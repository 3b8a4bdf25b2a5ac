"""Groups of settings that are generated from classes."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pgdiff.core.registry import registered
from pgdiff.core.settings import described, part_kinds, plain
from pgdiff.diffusion import KarrasSpacing, Sampling
from pgdiff.planning import Planner
from pgdiff.runs.load import SETTINGS, planner_keys
from pgdiff.runs.stages import OF_THE_RUN
from pgdiff.synthesis.shard_sampler import SAMPLING
from pgdiff.training import Trainer

LEFT_OUT = "???"
"""Value of a setting that is left out; OmegaConf reads it as missing."""

SWITCHED_OFF = ("clip_norm", "checkpoint_every")
"""Settings of a trainer that 0 switches off; null keeps the value of the recipe."""

GENERATION: dict[str, Any] = plain(SAMPLING.replace(spacing=KarrasSpacing()))
"""Default sampling settings of `pgdiff generate`."""


def generated_groups() -> dict[str, dict[str, Any]]:
    """Return the settings of every generated group, without values."""
    keys = ("name", *planner_keys())
    planner: dict[str, Any] = {key: LEFT_OUT for key in keys if key not in SETTINGS}
    planner |= {name: _tree(cls) for name, cls in SETTINGS.items()}
    trainer: dict[str, Any] = dict.fromkeys(_trainer_settings())
    return {"planner": planner, "sampling": _tree(Sampling), "trainer": trainer}


def generated_help(group: str) -> str:
    """Return a line for each setting of a generated group, with its description."""
    if group == "sampling":
        return "\n".join(_lines("", Sampling, GENERATION))
    if group == "trainer":
        return "\n".join(_trainer_lines())
    text = described(Planner)
    lines = ["name:  # registered name of the planner"]
    lines += [
        f"{key}:  # {_first(text.get(key, ''))}" for key in planner_keys() if key not in SETTINGS
    ]
    for name, cls in SETTINGS.items():
        lines += _lines(f"{name}.", cls)
    return "\n".join(lines)


def class_text(group: str, name: str, cls: type) -> str:
    """Return the YAML text of a registered class of the user, as a choice of a group.

    Args:
        group: "denoiser" or "guide"; a choice of "guide" also has the settings of every guide.
        name: registered name of the class.
        cls: the class.

    Example:
        >>> from pgdiff.cli.generated import class_text
        >>> from pgdiff.denoisers import ResidualMLPConfig
        >>> class_text("denoiser", "residual_mlp", ResidualMLPConfig).splitlines()[:2]
        ['name: residual_mlp', 'width: 256  # size of a token inside the blocks']
    """
    text, lines = described(cls), [f"name: {name}"]
    if group == "guide":
        lines = ["defaults:", "  - run", "  - _self_", "", *lines]
    for key, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD or key in ("name", "self"):
            continue
        value = LEFT_OUT if parameter.default is parameter.empty else plain(parameter.default)
        comment = _first(text[key]) if key in text else ""
        if group == "guide" and value != LEFT_OUT:  # a setting left out has the value of the run
            value, comment = LEFT_OUT, f"{comment} (default {_yaml(value)})".lstrip()
        lines.append(f"{key}: {_yaml(value)}" + (f"  # {comment}" if comment else ""))
    return "\n".join(lines)


def _trainer_settings() -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(Trainer).parameters
    return {key: value for key, value in parameters.items() if key not in OF_THE_RUN}


def _trainer_lines() -> list[str]:
    text, lines = described(Trainer), []
    for key, parameter in _trainer_settings().items():
        notes = []
        if parameter.default is not parameter.empty and parameter.default is not None:
            notes.append(f"default {_yaml(parameter.default)}")
        notes += ["0 for none"] if key in SWITCHED_OFF else []
        note = f" ({', '.join(notes)})" if notes else ""
        lines.append(f"{key}: null  # {_first(text[key])}{note}")
    return lines


def _tree(cls: type) -> dict[str, Any]:
    return {key: LEFT_OUT for key in part_kinds(cls)}


def _lines(prefix: str, cls: type, defaults: Mapping[str, Any] | None = None) -> list[str]:
    text, lines = described(cls), []
    for key, kind in part_kinds(cls).items():
        names = f" ({', '.join(sorted(registered(kind)))})" if kind else ""
        value = "" if defaults is None else f" {_yaml(defaults[key])}"
        lines.append(f"{prefix}{key}:{value}  # {_first(text.get(key, ''))}{names}")
    return lines


def _yaml(value: Any) -> str:
    """Return the text of a plain value on the command line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value)


def _first(text: str) -> str:
    """Return the first sentence or clause of a description."""
    return text.partition(";")[0].partition(". ")[0].rstrip(".")
