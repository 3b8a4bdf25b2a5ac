"""Guides of a run, built from their settings.

The settings of a guide are the keyword arguments of its class, as plain values. `name` is the
registered name of the class; without it, the label of the guide is this name, or the name of a
stage whose network a guide can use. An argument that is a trained network is a reference (see
`pgdiff.runs.references`) or a text: the name of a stage of the run, or else the path of an agent.
If it is left out, it is the network of the stage with the guide's label, provided that it fits.
"""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import pgdiff.guides  # noqa: F401  (registers the guides)
from pgdiff.core.registry import check_imported, is_path, registered, with_module
from pgdiff.core.settings import arguments, build_arguments, merge, part_kinds
from pgdiff.core.validation import PgdiffError, check_in, nearest
from pgdiff.diffusion import Guidance
from pgdiff.guides import Guide
from pgdiff.runs.references import (
    References,
    anchor,
    as_reference,
    check_reference,
    is_reference,
    learner_of,
    network_arguments,
    stages_in,
)
from pgdiff.runs.run import RunInfo, StageRecord

Settings = Mapping[str, Any]

_EMPTY = inspect.Parameter.empty

GuideChoice = str | Sequence[str | tuple[str, Settings]] | Mapping[str, Any]
"""Choice of a run's guides: one name; a list of names or of pairs of a label and settings; changes
to the settings of the default guide; or the settings of each guide by label. A mapping whose keys
are arguments of the default guide contains changes, even if a label has an equal name."""

OF_THE_RUN, NONE = "run", "none"
"""Choices that are not labels of a guide: the default guide of the run, and no guide."""


def run_guides(
    run: RunInfo, guide: GuideChoice | None = None, *, device: str | torch.device = "auto"
) -> tuple[Guide, ...]:
    """Build the guides of a run; see `chosen_settings`.

    Raises:
        PgdiffError: see `chosen_settings`; a setting is unknown or out of range; a network is
            missing, unfinished, or of another class.
    """
    references = References(run.stages, run, device=device)
    least_reward = run.data.get("least_reward")
    return tuple(
        build_guide(label, settings, references, least_reward=least_reward)
        for label, settings in chosen_settings(run, guide).items()
    )


def chosen_settings(run: RunInfo, guide: GuideChoice | None = None) -> dict[str, dict[str, Any]]:
    """Return the complete settings of the chosen guides by label.

    Args:
        run: run with settings of guides by label.
        guide: choice of guides; None for the default guide of the run. A label is one of the run's
            guides, a registered guide, or a stage whose network a guide can use. Settings merge
            into those of the run: a key that is left out keeps its value, None switches it off.

    Raises:
        PgdiffError: an unknown or repeated label, or settings without a guide.
    """
    known = _labels(run)
    chosen: dict[str, dict[str, Any]] = {}
    for wanted, changes in _by_label(run, guide, known):
        if wanted == NONE:
            continue
        label = run.guide if wanted == OF_THE_RUN else wanted
        if label is None:
            if changes:
                raise PgdiffError(
                    f"`guide` must be named, because the run '{run.path}' has no default guide: "
                    f"{nearest(OF_THE_RUN, known)} Got {dict(changes)}."
                )
            continue
        if label in chosen:
            raise PgdiffError(f"`guide` must name each guide once. Got '{label}' twice.")
        if "name" not in changes and label not in known:
            _check_path("guide", label)
            check_in("guide", label, known)
        stored = anchor(run.guides.get(label, {}), run.path)
        base = complete_guide(label, stored, run.stages) if label in known else {}
        chosen[label] = complete_guide(label, _merged(base, changes, run.stages), run.stages)
    return chosen


def complete_guide(label: str, settings: Settings, stages: Sequence[StageRecord]) -> dict[str, Any]:
    """Return settings of a guide with its name, and with its networks as references.

    Args:
        label: label of the guide.
        settings: plain values by the names of the arguments of the guide's class.
        stages: stages of the run.

    Raises:
        PgdiffError: the class of the guide is unknown, or its name is missing.
    """
    record = next((stage for stage in stages if stage.name == label), None)
    name = settings.get("name", label if label in registered("guide") else None)
    if name is None:
        name = None if record is None else _guide_of(learner_of(record))
    if name is None:
        stage = "" if record is None else f", and a stage of '{record.learner}'"
        raise PgdiffError(
            f"`name` of the guide '{label}' must be one of {{{', '.join(registered('guide'))}}}. "
            f"Got none{stage}."
        )
    complete = {"name": name, **settings}
    cls = _guide_class(label, complete)
    for key, kind in part_kinds(cls).items():
        if kind is not None and key in complete:
            complete[key] = with_module(kind, complete[key])
    for key, argument in network_arguments(cls).items():
        if complete.get(key) is not None:
            complete[key] = as_reference(complete[key], stages)
        elif key not in complete and record is not None and argument.accepts(learner_of(record)):
            complete[key] = {"stage": label}
    return with_module("guide", complete)  # type: ignore[no-any-return]


def build_guide(
    label: str,
    settings: Settings,
    references: References,
    *,
    least_reward: float | None = None,
) -> Guide:
    """Return the guide of complete settings; see `complete_guide`.

    Args:
        label: label of the guide, which becomes the attribute `name` of the guide.
        settings: complete settings.
        references: loads the networks.
        least_reward: smallest reward of the recording of the run; None if unknown.

    Raises:
        PgdiffError: a setting is unknown, missing or out of range, or a network does not fit.
    """
    cls, where = _guide_class(label, settings), f"guides.{label}"
    wanted = {key: value for key, value in settings.items() if key not in ("name", "import")}
    for key in wanted:
        if key not in part_kinds(cls):
            choices = [name for name in part_kinds(cls) if name != "name"]
            raise PgdiffError(f"`{where}` has no '{key}'. It must be {nearest(str(key), choices)}")
    _check_networks(cls, where, wanted, references)
    values = {
        key: references.resolve(value, name=f"{where}.{key}") for key, value in wanted.items()
    }
    given = build_arguments(cls, values, name=where)
    for key, argument in arguments(cls).items():
        needed = argument.default is _EMPTY and not argument.passed_on and key != "name"
        if needed and key not in given:
            raise PgdiffError(f"`{where}` needs `{key}`, which is missing.")
    try:
        guide = _make(cls, label, given)
    except TypeError as error:
        raise PgdiffError(f"`{where}` cannot be built from {dict(wanted)}: {error}.") from error
    of_run = next(stages_in(wanted), None) is not None  # rewards of other recordings are unknown
    if of_run and least_reward is not None and hasattr(guide, "check_rewards"):
        guide.check_rewards(least_reward)
    return guide


def _make(cls: type, label: str, given: dict[str, Any]) -> Guide:
    """Return an instance of a guide's class, named by its label where the class allows this."""
    guide: Guide
    name = arguments(cls).get("name")
    if name is not None and not name.passed_on:
        guide = cls(name=label, **given)
        return guide
    try:
        guide = cls(**given) if name is None else cls(name=label, **given)
    except TypeError as error:
        if "multiple values" not in str(error):
            raise
        guide = cls(**given)  # the class names itself
    if guide.name != label:
        with contextlib.suppress(AttributeError):  # also of frozen dataclasses
            guide.name = label  # type: ignore[misc]
    return guide


def check_guide(
    label: str,
    settings: Settings,
    stages: Sequence[StageRecord] = (),
    *,
    least_reward: float | None = None,
) -> Guide:
    """Return a guide with untrained networks, to check its settings before training.

    Args:
        label: label of the guide.
        settings: settings of a recipe.
        stages: stages of the run.
        least_reward: smallest reward of the recording; None if unknown.

    Raises:
        PgdiffError: a setting is unknown or out of range, or a network is missing or does not fit.
    """
    complete = complete_guide(label, settings, stages)
    references = References(stages, None, device="cpu")
    for key, argument in network_arguments(_guide_class(label, complete)).items():
        if key not in complete and argument.required:  # a stage that the recipe leaves out
            learners = registered("learner")
            learner = next(name for name, cls in learners.items() if argument.accepts(cls))
            stand_in = StageRecord(
                name=f"{label}.{key}", learner=learner, arguments={}, trainer={}, seed=0
            )
            stages = (*stages, stand_in)
            references = References(stages, None, device="cpu")
            complete[key] = {"stage": f"{label}.{key}"}
    guide = build_guide(label, complete, references, least_reward=least_reward)
    Guidance(  # raises if `gradient_at` does not fit the rule
        objective=_no_objective,
        gradient_at=guide.gradient_at,
        rule=getattr(guide, "rule", None),
        scale_schedule=getattr(guide, "scale_schedule", None),
        name=label,
    )
    return guide


def _labels(run: RunInfo) -> list[str]:
    """Return the choices of a guide that need no further settings."""
    learners = registered("learner")
    usable = [
        stage.name
        for stage in run.stages
        if stage.learner in learners and _guide_of(learners[stage.learner]) is not None
    ]
    return list(dict.fromkeys([OF_THE_RUN, NONE, *run.guides, *usable, *registered("guide")]))


def _guide_of(learner: type) -> str | None:
    """Return the first registered guide with a required network that a class of networks fits."""
    for name, cls in registered("guide").items():
        for argument in network_arguments(cls).values():
            if argument.required and argument.accepts(learner):
                return name
    return None


def _guide_class(label: str, settings: Settings) -> type:
    """Return the registered class of a guide."""
    check_imported("guide", settings)
    name = settings["name"]
    return registered("guide")[check_in(f"name of the guide '{label}'", name, registered("guide"))]


def _check_path(name: str, value: str) -> None:
    if is_path(value):
        raise PgdiffError(
            f"`{name}` must be a registered guide. Got the path '{value}'. pgdiff imports a module "
            "only if its path is typed on the command line: import it first."
        )


def _by_label(
    run: RunInfo, guide: GuideChoice | None, known: Sequence[str]
) -> list[tuple[str, Settings]]:
    """Return the labels of the chosen guides with the changes to their settings."""
    if guide is None:
        return [(OF_THE_RUN, {})]
    if isinstance(guide, str):
        return [(guide, {})]
    if isinstance(guide, Mapping):
        if _are_changes(run, guide, known):
            return [_label_of(run, guide)]
        for label, settings in guide.items():
            if settings is not None and not isinstance(settings, Mapping):
                raise PgdiffError(
                    f"`guide` must give the settings of '{label}' by name. Got {settings!r}."
                )
        return [(str(label), settings or {}) for label, settings in guide.items()]
    if not isinstance(guide, Sequence):
        raise PgdiffError(f"`guide` must be a name, names, or settings by name. Got {guide!r}.")
    pairs = [(item, {}) if isinstance(item, str) else item for item in guide]
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Mapping)):
            raise PgdiffError(
                "`guide` must be a list of names, or of pairs of a label and settings. "
                f"Got {pair!r} in it."
            )
    return pairs


def _are_changes(run: RunInfo, guide: Settings, known: Sequence[str]) -> bool:
    """Return whether a mapping holds settings of one guide, and not of guides by label."""
    if isinstance(guide.get("name"), str):
        return True
    by_label = all(
        value is None or (isinstance(value, Mapping) and not is_reference(value))
        for value in guide.values()
    )
    if by_label and any(label in known for label in guide):
        return False
    default: Mapping[str, Any] = {}
    if run.guide is not None:
        settings = complete_guide(run.guide, run.guides.get(run.guide, {}), run.stages)
        default = arguments(_guide_class(run.guide, settings))
    if by_label:
        return bool(guide) and all(key in default for key in guide)
    # A mapping among other values contains the settings of a guide by its label.
    return not any(key in known and key not in default for key in guide)


def _label_of(run: RunInfo, settings: Settings) -> tuple[str, Settings]:
    """Return the label of the guide that one mapping of settings describes, and the settings."""
    name = settings.get("name")
    if name is None:
        return OF_THE_RUN, settings
    if run.guide is not None:
        default = complete_guide(run.guide, run.guides.get(run.guide, {}), run.stages)
        if default["name"] == name:
            return OF_THE_RUN, settings
    return str(name), settings


def _merged(base: Settings, changes: Settings, stages: Sequence[StageRecord]) -> dict[str, Any]:
    """Return settings with changes; a reference is replaced as a whole."""
    if changes.get("name", base.get("name")) != base.get("name"):
        return dict(changes)
    merged = dict(base)
    for key, value in changes.items():
        whole = is_reference(value) or is_reference(base.get(key))
        merged[str(key)] = value if whole else merge(base.get(key), value)
    return merged


def _check_networks(cls: type, where: str, settings: Settings, references: References) -> None:
    """Raise if a network is missing, or if a stage trains a network of another class."""
    for key, argument in network_arguments(cls).items():
        value, name = settings.get(key), f"{where}.{key}"
        fitting = [
            stage.name
            for stage in references.stages.values()
            if stage.learner in registered("learner") and argument.accepts(learner_of(stage))
        ]
        stages = f"Stages with a network that fits: {', '.join(fitting) or 'none'}."
        if value is None:
            if argument.required:
                raise PgdiffError(
                    f"`{name}` must be given: {{stage: NAME}}, {{run: DIR, stage: NAME}} or "
                    f"{{agent: FILE}}. {stages}"
                )
        elif is_reference(value):
            learner = references.learner(value, name=name)
            if learner is not None and not argument.accepts(learner):
                raise PgdiffError(
                    f"`{name}` must refer to {argument.names}. The stage '{value['stage']}' "
                    f"trains {learner.__name__}. {stages}"
                )
        elif isinstance(value, Mapping):
            check_reference(value, name=name)


def _no_objective(x: Tensor, level: Tensor) -> Tensor:
    raise NotImplementedError
