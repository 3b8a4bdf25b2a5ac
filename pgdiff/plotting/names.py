"""Names of the features of observations and actions."""

from collections.abc import Sequence
from typing import Any

from pgdiff.core.validation import PgdiffError, check_positive_int, nearest
from pgdiff.data import ObservationLayout

# Positions and velocities of a MuJoCo joint by its type: free, ball, slide, hinge.
_POSITIONS, _VELOCITIES = (7, 4, 1, 1), (6, 3, 1, 1)
_ON_JOINT = 0  # MuJoCo's mjTRN_JOINT: the actuator moves a joint


def observation_names(
    env: Any, size: int, *, layout: ObservationLayout | None = None
) -> tuple[str, ...]:
    """Return a name for each feature of an observation.

    The first source that names all `size` features is used: the environment's attribute
    `feature_names` (a sequence of strings), the fields of a Dict observation, or the joints of a
    MuJoCo environment with Gymnasium's attribute `observation_structure`. Otherwise the names are
    "feature 0", "feature 1" and so on.

    Args:
        env: an environment, or None.
        size: number of features of an observation.
        layout: layout of a recording of Dict observations; None for the environment's layout.
    """
    inner = getattr(env, "unwrapped", env)
    sources = (
        names
        for names in (
            _stated(inner, "feature_names"),
            _of_layout(layout or layout_of(env)),
            _of_joints(inner),
        )
        if len(names) == size
    )
    return next(sources, tuple(f"feature {index}" for index in range(size)))


def action_names(env: Any, size: int) -> tuple[str, ...]:
    """Return a name for each entry of an action.

    The names come from the environment's attribute `action_names`, else from the actuators of a
    MuJoCo environment or the joints that they move. Otherwise they are "action 0", "action 1" and
    so on.
    """
    inner = getattr(env, "unwrapped", env)
    sources = (
        names
        for names in (_stated(inner, "action_names"), _of_actuators(inner))
        if len(names) == size
    )
    return next(sources, tuple(f"action {index}" for index in range(size)))


def select_features(
    features: Sequence[int | str] | None, names: Sequence[str], *, most: int
) -> list[int]:
    """Return the indices of features that are given by index or name.

    Args:
        features: indices or names; None for the first `most` features.
        names: names of all features.
        most: number of features if `features` is None.

    Raises:
        PgdiffError: if `features` is empty, or has an unknown index or name.
    """
    if features is None:
        return list(range(min(most, len(names))))
    if not isinstance(features, Sequence) or isinstance(features, str) or len(features) == 0:
        raise PgdiffError(
            f"`features` must be a list of indices or names of features, got {features!r}. "
            "Pass a single feature as a list: features=[0]."
        )
    return [_index(feature, names) for feature in features]


def layout_of(env: Any) -> ObservationLayout | None:
    """Return the layout of an environment's Dict observations; None for other spaces."""
    space = getattr(env, "observation_space", None)
    if not isinstance(getattr(space, "spaces", None), dict):
        return None
    try:
        return ObservationLayout.from_space(space)
    except PgdiffError:  # fields that are not numbers cannot be flattened
        return None


def _index(feature: int | str, names: Sequence[str]) -> int:
    if isinstance(feature, str):
        if feature not in names:
            raise PgdiffError(
                f"`features` must name features of the observation, got '{feature}': "
                f"{nearest(feature, list(names))}"
            )
        return list(names).index(feature)
    index = check_positive_int("features", feature, minimum=0)
    if index >= len(names):
        raise PgdiffError(
            f"`features` must be indices from 0 to {len(names) - 1}, got {index}. Choose one of "
            f"the observation's {len(names)} features."
        )
    return index


def _stated(inner: Any, attribute: str) -> tuple[str, ...]:
    names = getattr(inner, attribute, None)
    if names is None or isinstance(names, str) or not isinstance(names, Sequence):
        return ()
    return tuple(str(name) for name in names)


def _of_layout(layout: ObservationLayout | None) -> tuple[str, ...]:
    if layout is None:
        return ()
    return tuple(
        name if size == 1 else f"{name}[{index}]"
        for name, size in layout.fields
        for index in range(size)
    )


def _of_joints(inner: Any) -> tuple[str, ...]:
    """Return positions and velocities of joints, then the other parts of the structure."""
    structure = getattr(inner, "observation_structure", None)
    model: Any = getattr(inner, "model", None)
    if not isinstance(structure, dict) or not hasattr(model, "njnt"):
        return ()
    joints = [(model.joint(index).name, int(model.jnt_type[index])) for index in range(model.njnt)]
    qpos = [name for joint, kind in joints for name in _numbered(joint, _POSITIONS[kind])]
    qvel = [
        name
        for joint, kind in joints
        for name in _numbered(f"velocity of {joint}", _VELOCITIES[kind])
    ]
    skipped = int(structure.get("skipped_qpos", 0))
    if structure.get("qpos") != len(qpos) - skipped or structure.get("qvel") != len(qvel):
        return ()
    rest = [
        name
        for part, size in structure.items()
        if part not in ("skipped_qpos", "qpos", "qvel")
        for name in _numbered(part, int(size))
    ]
    return (*qpos[skipped:], *qvel, *rest)


def _of_actuators(inner: Any) -> tuple[str, ...]:
    model: Any = getattr(inner, "model", None)
    names = []
    for index in range(getattr(model, "nu", 0)):
        name = str(model.actuator(index).name)
        if not name and model.actuator_trntype[index] == _ON_JOINT:
            name = str(model.joint(int(model.actuator_trnid[index, 0])).name)
        names.append(f"action on {name}" if name else "")
    return tuple(names) if all(names) else ()


def _numbered(name: str, size: int) -> list[str]:
    return [name] if size == 1 else [f"{name}[{index}]" for index in range(size)]
