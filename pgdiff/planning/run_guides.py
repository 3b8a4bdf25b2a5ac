"""Guides of a run: which are asked for, with which settings, and of what they are made."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from pgdiff.critics import GoalValue
from pgdiff.diffusion import Guidance
from pgdiff.guides import Guide
from pgdiff.guides.logarithm import check_log
from pgdiff.planning.guide_kinds import KINDS, Kind, Settings, agent_of
from pgdiff.registry import registered
from pgdiff.validation import PgdiffError, check_in, nearest

if TYPE_CHECKING:
    from pgdiff.planning.from_run import RunInfo, StageRecord

GuideChoice = str | Sequence[str] | Mapping[str, Mapping[str, Any] | None]
"""Guides of a run: one by name, several by names, or the settings of each by name."""


class GuideSettings(TypedDict, total=False):
    """Changes to the settings of the guides that are asked for; None for what the run says.

    Attributes:
        scale: 0 for choosing among candidates only.
        transform: of a value or a critic, "none" or "log".
        trace: of a value, lambda of the lambda-return.
        at: where the gradient is taken, "x0", "x" or "denoiser".
        agent: of a policy or a critic, in place of a stage: an object with the method `log_prob` or
            `q`, a live model of Stable-Baselines3, or the path of either's file or folder.
        guide_settings: others by name.
    """

    scale: float | None
    transform: str | None
    trace: float | None
    at: str | None
    agent: Any
    guide_settings: Mapping[str, Any] | None


OF_THE_RUN, NONE = "run", "none"
"""Names of no guide: for the one that the run names, and for none at all."""


def run_guides(
    run: "RunInfo",
    guide: GuideChoice | None,
    changes: Settings,
    *,
    device: str | torch.device,
) -> tuple[Guide, ...]:
    """Build guides with a run's settings and changes to them; see `chosen_settings`.

    Raises:
        PgdiffError: as `chosen_settings`; a setting that a guide has not or that is out of its
            range; a stage that is absent, unfinished or has learned something else; an agent that
            cannot be read.
    """
    guides = []
    for name, settings in chosen_settings(run, guide, changes).items():
        kind = _kind(name, settings, run.stages)
        built = kind.build(name, _part(run, name, settings, device), settings)
        _check_log(built, settings, run.data.get("least_reward"))
        guides.append(built)
    return tuple(guides)


def chosen_settings(
    run: "RunInfo", guide: GuideChoice | None, changes: Settings
) -> dict[str, dict[str, Any]]:
    """Return the settings of the guides that are asked for, by name.

    Args:
        run: has settings of guides by name. A name that it has none of is a kind of guide, or a
            stage that a guide can be made of.
        guide: names, or settings by name; None or "run" for the guide that the run names, "none"
            for none.
        changes: to the settings of each; None for what the run says.

    Raises:
        PgdiffError: no such guide, with the nearest; one that is named twice; settings where there
            is none.
    """
    chosen: dict[str, dict[str, Any]] = {}
    stages = [stage.name for stage in run.stages if any(_fits(k, stage) for k in KINDS.values())]
    known = list(dict.fromkeys([NONE, *run.guides, *stages, *KINDS]))
    for asked, own in _by_name(guide):
        settings = _given(own) | _given(changes)
        if asked == NONE:
            continue
        name = run.guide if asked == OF_THE_RUN else asked
        if name is None:
            if settings:
                raise PgdiffError(
                    f"`guide` must be named, because the run '{run.path}' names none: "
                    f"{nearest(OF_THE_RUN, known)} Got {settings}."
                )
            continue
        if name in chosen:
            raise PgdiffError(f"`guide` must name every guide once. Got '{name}' twice.")
        if "kind" not in settings:
            check_in("guide", name, known)
        said = _given(run.guides.get(name, {}))
        for one, others in (("agent", {"stage"}), ("stage", {"agent", "vec_normalize"})):
            if one in settings:  # in place of what the run says
                said = {key: value for key, value in said.items() if key not in others}
        chosen[name] = said | settings
    return chosen


def check_guide(
    name: str,
    settings: Settings,
    stages: Sequence["StageRecord"] = (),
    *,
    least_reward: float | None = None,
) -> Guide:
    """Make a guide of parts that have learned nothing: a check before anything is trained.

    Args:
        name: of the guide.
        settings: as a recipe has them.
        stages: of the run.
        least_reward: of the recording that the stages learn from; None where it is not known.

    Raises:
        PgdiffError: a setting that the guide has not, or that is out of its range; an agent that
            cannot be read; a stage that learns something else.
    """
    settings = _given(settings)
    kind = _kind(name, settings, stages)
    part = (
        agent_of(settings, "cpu") if "agent" in settings else _blank(name, kind, settings, stages)
    )
    guide = kind.build(name, part, settings)
    _check_log(guide, settings, least_reward)
    # Whether the gradient may be taken there by this rule.
    Guidance(energy=_no_energy, at=guide.at, rule=guide.rule, schedule=guide.schedule, name=name)
    return guide


# ---------------------------------------------------------------------------------------- names


def _by_name(guide: GuideChoice | None) -> list[tuple[str, Settings]]:
    if guide is None or isinstance(guide, str):
        return [(OF_THE_RUN if guide is None else guide, {})]
    if isinstance(guide, Mapping):
        for name, settings in guide.items():
            if settings is not None and not isinstance(settings, Mapping):
                raise PgdiffError(
                    f"`guide` must give the settings of '{name}' by name. Got {settings!r}."
                )
        return [(str(name), settings or {}) for name, settings in guide.items()]
    if not isinstance(guide, Sequence) or not all(isinstance(name, str) for name in guide):
        raise PgdiffError(f"`guide` must be a name, names, or settings by name. Got {guide!r}.")
    return [(name, {}) for name in guide]


def _given(settings: Settings) -> dict[str, Any]:
    return {str(key): value for key, value in settings.items() if value is not None}


# ------------------------------------------------------------------------------ kinds and parts


def _kind(name: str, settings: Settings, stages: Sequence["StageRecord"]) -> Kind:
    """The kind of a guide, whose settings are checked by name."""
    if "stage" in settings:
        check_in(f"stage of the guide '{name}'", settings["stage"], [s.name for s in stages])
    record = _record(name, settings, stages)
    if record is not None and record.learner not in registered("learner"):
        raise PgdiffError(
            f"The stage '{record.name}' has learned a '{record.learner}', a learner that is not "
            "registered. Import the module that registers it first."
        )
    if "kind" in settings:
        kind = KINDS[check_in(f"kind of the guide '{name}'", settings["kind"], KINDS)]
    elif name in KINDS:
        kind = KINDS[name]
    else:
        fitting = [kind for kind in KINDS.values() if record is not None and _fits(kind, record)]
        if not fitting:
            what = "no stage of that name" if record is None else f"a stage of '{record.learner}'"
            raise PgdiffError(
                f"`kind` of the guide '{name}' must be one of {{{', '.join(KINDS)}}}. Got none, "
                f"and {what}, from which it would follow."
            )
        kind = fitting[0]
    kind.check_settings(name, settings)
    return kind


def _record(name: str, settings: Settings, stages: Sequence["StageRecord"]) -> "StageRecord | None":
    """The stage that a guide says, or the one of its name."""
    wanted = settings.get("stage", name)
    return next((stage for stage in stages if stage.name == wanted), None)


def _fits(kind: Kind, stage: "StageRecord") -> bool:
    learner = registered("learner").get(stage.learner)
    return learner is not None and kind.fits(learner)


def _part(run: "RunInfo", name: str, settings: Settings, device: str | torch.device) -> Any:
    """What a guide is made of: an agent, or what a stage has learned; None where nothing is."""
    kind = _kind(name, settings, run.stages)
    if "agent" in settings:
        return agent_of(settings, device)
    record = _record(name, settings, run.stages)
    if record is not None and kind.part is not None:
        part = run.load(record.name, device=device)
        kind.check_learned(name, record.name, type(part))
        return part
    if kind.part is not None and not kind.bare:
        agent = "an `agent`, by its path, or " if kind.agents else ""
        fitting = [stage.name for stage in run.stages if _fits(kind, stage)]
        raise PgdiffError(
            f"The guide '{name}' must be given {agent}a `stage` that has learned {kind.what}, of "
            f"which the run '{run.path}' has {', '.join(fitting) or 'none'}."
        )
    return None


def _blank(name: str, kind: Kind, settings: Settings, stages: Sequence["StageRecord"]) -> Any:
    """What a stage is going to learn, as far as its class and arguments tell.

    A guide asks it no more, when it is made.
    """
    record = _record(name, settings, stages)
    learner = kind.example if record is None else registered("learner").get(record.learner)
    if kind.part is None or learner is None or (record is None and kind.bare):
        return None
    if record is not None:
        kind.check_learned(name, record.name, learner)
    blank: Any = object.__new__(learner)
    vars(blank).update({} if record is None else record.arguments)
    return blank


def _check_log(guide: Any, settings: Settings, least_reward: float | None) -> None:
    """Refuse the logarithm of what a stage has learned from negative rewards."""
    part = getattr(guide, "value", getattr(guide, "critic", None))
    # The rewards of a value of goals are its own, and those of an agent's critic are unknown.
    learned = "agent" not in settings and part is not None and not isinstance(part, GoalValue)
    if learned and getattr(guide, "transform", "none") == "log":
        check_log(guide.name, least_reward=least_reward)


def _no_energy(x: Tensor, level: Tensor) -> Tensor:
    raise NotImplementedError
