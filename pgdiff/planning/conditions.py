"""Values of conditions: defaults of a planner, values of an episode, and the keys of both.

A planner takes one mapping of raw values by name. A value is used by the model, if it is one of its
conditions; by guides, as `Segment.condition`; and the goal by in-painting.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pgdiff.core.validation import PgdiffError, as_array, nearest
from pgdiff.diffusion.guidance.classifier_free import ClassifierFree
from pgdiff.guides import Guide
from pgdiff.model import TrajectoryDiffusion
from pgdiff.model.guidance import needs_goal
from pgdiff.planning.goals import GOAL
from pgdiff.trajectory import Condition

Values = Mapping[str, np.ndarray]
"""`[environments, ...]` for each name."""


def guide_keys(guide: Guide) -> tuple[str, ...]:
    """Return the names of the values that a guide reads from `Segment.condition`.

    They are its optional attribute `condition_keys`, "goal" if it `needs_goal`, and the keys of the
    guides that it sums.
    """
    keys = [*getattr(guide, "condition_keys", ()), *([GOAL] if needs_goal(guide) else [])]
    for part in getattr(guide, "guides", ()):
        keys += guide_keys(part)
    return unique(keys)


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names without repetitions, in the order of their first appearance."""
    return tuple(dict.fromkeys(names))


def known_keys(model: TrajectoryDiffusion, guides: Sequence[Guide]) -> tuple[str, ...]:
    """Return the names of all values that a planner can use."""
    keys = [key for guide in guides for key in guide_keys(guide)]
    return unique([*model.conditions.names, GOAL, *keys])


def required_keys(
    model: TrajectoryDiffusion,
    guides: Sequence[Guide],
    classifier_free: ClassifierFree | None,
    *,
    given: Collection[str],
    inpaints: bool,
) -> tuple[str, ...]:
    """Return the names of the values that plans need, defaults included.

    Args:
        model: model of the plans.
        guides: guides of the plans.
        classifier_free: settings of classifier-free guidance, which need a condition.
        given: names of the default values.
        inpaints: whether a goal is in-painted.
    """
    conditions = model.conditions
    joint = [condition.name for condition in conditions.joint]
    needed = (
        GOAL in joint
        or bool(set(joint) & set(given))
        or classifier_free is not None
        or conditions.dropout == 0
    )
    hints = [hint.name for hint in conditions.hints if not hasattr(hint, "from_plan")]
    keys = [key for guide in guides for key in guide_keys(guide)]
    return unique([*(joint if needed else ()), *hints, *([GOAL] if inpaints else ()), *keys])


def check_names(names: Iterable[str], model: TrajectoryDiffusion, guides: Sequence[Guide]) -> None:
    """Raise if neither the model nor a guide uses a value of one of these names."""
    known = known_keys(model, guides)
    for name in names:
        if name in known:
            continue
        if not model.conditions.names and known == (GOAL,):
            raise PgdiffError(
                f"`condition` must be None, or a goal, for a model without conditions. "
                f"Got '{name}'. A guide states the values that it reads in `condition_keys`."
            )
        raise PgdiffError(f"`condition` must name {nearest(str(name), known)} Got '{name}'.")


def checked_defaults(
    condition: Mapping[str, Any] | None, model: TrajectoryDiffusion, guides: Sequence[Guide]
) -> dict[str, Tensor]:
    """Return the default values of a planner as tensors of batch 1; values of None are left out."""
    if condition is None:
        return {}
    if not isinstance(condition, Mapping):
        raise PgdiffError(
            "`condition` must be a mapping of names to values, such as "
            f'{{"goal": (7.0, 9.0)}}. Got {condition!r}.'
        )
    check_names(condition, model, guides)
    raw: dict[str, Any] = {}
    for name, value in condition.items():
        if value is not None:
            numbers = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
            raw[name] = [numbers if isinstance(numbers, Sequence) else [numbers]]
    if not raw:
        return {}
    checked = Condition(values=raw)
    model.conditions.check_values(checked)
    return dict(checked.values)


def episode_values(condition: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Return the values of one episode as arrays of batch 1; values of None are left out."""
    if condition is None:
        return {}
    if not isinstance(condition, Mapping):
        raise PgdiffError(
            "`condition` must be a mapping of names to values, such as "
            f'{{"goal": (7.0, 9.0)}}. Got {condition!r}.'
        )
    return {
        str(name): np.atleast_1d(_numbers(str(name), value))[None]
        for name, value in condition.items()
        if value is not None
    }


def checked_values(
    condition: Mapping[str, Any] | None,
    model: TrajectoryDiffusion,
    guides: Sequence[Guide],
    *,
    count: int,
) -> dict[str, np.ndarray]:
    """Return float32 copies of values `[environments, ...]`, or raise if they do not fit.

    Args:
        condition: values of each environment by name; `[environments]` for one number each. Values
            of None are left out.
        model: model of the plans.
        guides: guides of the plans.
        count: number of environments.
    """
    if condition is None:
        return {}
    check_names(condition, model, guides)
    checked = {}
    for name, value in condition.items():
        if value is None:
            continue
        array = _numbers(name, value)
        if array.shape == (count,):
            array = array[:, None]
        if array.ndim < 2 or len(array) != count or not np.isfinite(array).all():
            size = name if array.ndim < 3 else "..."
            raise PgdiffError(
                f"`{name}` must be finite and of shape [{count}, {size}]. Got {array.tolist()}."
            )
        checked[name] = array
    return checked


def _numbers(name: str, value: Any) -> np.ndarray:
    array = as_array(name, value)
    if array.dtype.kind not in "fiub":
        raise PgdiffError(f"`{name}` must be numbers. Got {value!r}.")
    with np.errstate(over="ignore"):
        return np.array(array, dtype=np.float32)


def check_given(
    values: Mapping[str, Tensor],
    guides: Sequence[Guide],
    *,
    conditioned: bool,
    classifier_free: ClassifierFree | None,
) -> None:
    """Raise if a guide or classifier-free guidance lacks a value.

    Args:
        values: values of the plans by name.
        guides: guides of the plans.
        conditioned: whether the model gets a condition.
        classifier_free: settings of classifier-free guidance.
    """
    for guide in guides:
        for name in guide_keys(guide):
            if name not in values:
                raise PgdiffError(
                    f"`{name}` must be given to the guide {guide.name}. Got None. Pass it in "
                    f"`condition` to plan, or to Planner as a default."
                )
    if classifier_free is not None and not conditioned:
        raise PgdiffError(
            "`condition` must be given to a planner with `classifier_free`. Got None. Pass it to "
            "plan, or to Planner as a default."
        )
