"""Names of the features of observations and of actions, from whatever knows them."""

from collections.abc import Sequence
from typing import Any

from pgdiff.data import ObservationLayout
from pgdiff.validation import PgdiffError, check_positive_int, nearest

# Positions and velocities of a MuJoCo joint by its type: free, ball, slide, hinge.
_POSITIONS, _VELOCITIES = (7, 4, 1, 1), (6, 3, 1, 1)
_ON_JOINT = 0  # MuJoCo's mjTRN_JOINT: the actuator moves a joint


def observation_names(
    env: Any, size: int, *, layout: ObservationLayout | None = None
) -> tuple[str, ...]:
    """Return a name for each feature of an observation.

    The first of these that names all `size` features is used: the environment's attribute
    `feature_names` (a sequence of strings), the fields of a Dict observation, and the joints of a
    MuJoCo environment that describes its observations as Gymnasium's own do
    (`observation_structure`). Otherwise the names are "feature 0", "feature 1" and so on.

    Args:
        env: an environment, or None.
        size: how many features an observation has.
        layout: of a recording of Dict observations, where there is no environment.
    """
    inner = getattr(env, "unwrapped", env)
    found = (
        names
        for names in (
            _stated(inner, "feature_names"),
            _of_layout(layout or layout_of(env)),
            _of_joints(inner),
        )
        if len(names) == size
    )
    return next(found, tuple(f"feature {index}" for index in range(size)))


def action_names(env: Any, size: int) -> tuple[str, ...]:
    """Return a name for each number of an action.

    They are those of the environment's attribute `action_names`, else of the actuators of a MuJoCo
    environment or of the joints that these move, else "action 0", "action 1" and so on.
    """
    inner = getattr(env, "unwrapped", env)
    found = (
        names
        for names in (_stated(inner, "action_names"), _of_actuators(inner))
        if len(names) == size
    )
    return next(found, tuple(f"action {index}" for index in range(size)))


def chosen_features(
    features: Sequence[int | str] | None, names: Sequence[str], *, most: int
) -> list[int]:
    """Return the indices of the features that are chosen by index or name.

    Args:
        features: indices or names; None for the first `most`.
        names: of all features.
        most: how many are shown where nothing is chosen.

    Raises:
        PgdiffError: no features, an index beyond the last, or a name that no feature has.
    """
    if features is None:
        return list(range(min(most, len(names))))
    if not isinstance(features, Sequence) or isinstance(features, str) or len(features) == 0:
        raise PgdiffError(
            f"`features` must be a list of indices or names of features, got {features!r}. "
            "Write one feature as a list of one: features=[0]."
        )
    return [_index(feature, names) for feature in features]


def layout_of(env: Any) -> ObservationLayout | None:
    """Return the layout of an environment's Dict observations; None for any other space."""
    space = getattr(env, "observation_space", None)
    if not isinstance(getattr(space, "spaces", None), dict):
        return None
    try:
        return ObservationLayout.from_space(space)
    except PgdiffError:  # fields that are no numbers: such an environment has no flat observation
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
            f"the {len(names)} features of the observation."
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
    """Positions and velocities of joints, then whatever else the structure counts."""
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
