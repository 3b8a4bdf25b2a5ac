"""Flattening of Dict observations, by a layout that is saved with data and with models."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, as_array, check_positive_int, nearest

GOAL, ACHIEVED = "desired_goal", "achieved_goal"


@register("observation_layout", "fields")
@dataclass(frozen=True, kw_only=True)
class ObservationLayout:
    """Order in which the fields of a Dict observation are concatenated to a flat observation.

    Fields are sorted by name; `desired_goal` is left out, because the goal is not part of the
    observation. A field of a Dict inside a Dict has a dotted name ("arm.joints"). Every field is a
    Box of numbers; fields with several axes are unrolled, last axis fastest. Gymnasium-Robotics'
    PointMaze and AntMaze have Dict observations.

    Attributes:
        fields: name and size of each field, in the order of the flat observation.
        goal: name and size of the goal field; None without a goal.
        position: indices of the features that the goal is compared with (those of
            `achieved_goal`); empty without that field.

    Raises:
        PgdiffError: if a name is repeated, a size is below 1, or `position` does not fit.

    Example:
        >>> from pgdiff.data import ObservationLayout
        >>> layout = ObservationLayout.from_sizes({"speed": 1, "arm": 2})
        >>> layout.fields
        (('arm', 2), ('speed', 1))
        >>> flat, goal = layout.flatten({"speed": [3.0], "arm": [1.0, 2.0]})
        >>> flat.tolist(), goal
        ([1.0, 2.0, 3.0], None)
    """

    fields: tuple[tuple[str, int], ...]
    goal: tuple[str, int] | None = None
    position: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        fields = tuple(_named_size("fields", field) for field in self.fields)
        goal = None if self.goal is None else _named_size("goal", self.goal)
        position = tuple(check_positive_int("position", i, minimum=0) for i in self.position)
        for name, value in (("fields", fields), ("goal", goal), ("position", position)):
            object.__setattr__(self, name, value)
        if not fields:
            raise PgdiffError("`fields` must name at least one field. Got none.")
        names = [name for name, _ in fields] + ([goal[0]] if goal else [])
        if len(set(names)) < len(names):
            raise PgdiffError(f"`fields` and `goal` must have different names. Got {names}.")
        if any(index >= self.features for index in position):
            raise PgdiffError(
                f"`position` must be indices of the {self.features} features. Got {list(position)}."
            )
        if position and (goal is None or len(position) != goal[1]):
            size = "no goal" if goal is None else f"a goal of {goal[1]}"
            raise PgdiffError(
                f"`position` must have one index per number of the goal. Got "
                f"{len(position)} for {size}."
            )

    @property
    def features(self) -> int:
        """Number of features of a flat observation."""
        return sum(size for _, size in self.fields)

    @classmethod
    def from_sizes(cls, sizes: Mapping[str, int]) -> Self:
        """Return the layout of fields with these names and sizes.

        Raises:
            PgdiffError: if the goal is the only field, or goal and achieved goal differ in size.
        """
        goal = (GOAL, sizes[GOAL]) if GOAL in sizes else None
        fields = tuple((name, sizes[name]) for name in sorted(sizes) if name != GOAL)
        position: tuple[int, ...] = ()
        if goal and ACHIEVED in sizes:
            if sizes[ACHIEVED] != goal[1]:
                raise PgdiffError(
                    f"`{ACHIEVED}` must have the size of `{GOAL}`, {goal[1]}. "
                    f"Got {sizes[ACHIEVED]}."
                )
            first = sum(size for name, size in fields if name < ACHIEVED)
            position = tuple(range(first, first + goal[1]))
        return cls(fields=fields, goal=goal, position=position)

    @classmethod
    def from_space(cls, space: Any) -> Self:
        """Return the layout of a `gymnasium.spaces.Dict`.

        Raises:
            PgdiffError: if the space is not a Dict, or a field is an image or not a Box.
        """
        from gymnasium import spaces

        if not isinstance(space, spaces.Dict):
            raise PgdiffError(f"`space` must be a gymnasium.spaces.Dict. Got {space}.")
        sizes: dict[str, int] = {}
        for name, leaf in _leaves(space):
            image = isinstance(leaf, spaces.Box) and leaf.dtype == np.uint8 and len(leaf.shape) > 1
            if not isinstance(leaf, spaces.Box) or image:
                raise PgdiffError(
                    f"`space` must hold only Boxes of numbers. Its field '{name}' is "
                    f"{'an image' if image else leaf}."
                )
            sizes[name] = math.prod(leaf.shape)
        return cls.from_sizes(sizes)

    def space(self) -> Any:
        """Return a `gymnasium.spaces.Dict` of unbounded float32 Boxes with these fields."""
        from gymnasium import spaces

        sized = [*self.fields, *([self.goal] if self.goal else [])]
        boxes = {name: spaces.Box(-np.inf, np.inf, (size,), np.float32) for name, size in sized}

        def dicts(tree: Any) -> Any:
            if not isinstance(tree, dict):
                return tree
            return spaces.Dict({key: dicts(value) for key, value in tree.items()})

        return dicts(_nested(boxes))

    def check(self, observation: Mapping[str, Any]) -> tuple[int, ...]:
        """Raise if an observation does not have this layout.

        Args:
            observation: an array per field; leading axes that all fields share are batch axes.

        Returns:
            The batch axes.

        Raises:
            PgdiffError: if a field is missing, unknown, or has another shape or type.
        """
        return self._checked(observation)[1]

    def flatten(
        self, observation: Mapping[str, Any]
    ) -> tuple[Float[np.ndarray, "*batch obs"], Float[np.ndarray, "*batch goal"] | None]:
        """Concatenate the fields to a flat observation.

        Args:
            observation: see `check`.

        Returns:
            The flat observation and the goal (None if the layout has none), both float32.

        Raises:
            PgdiffError: see `check`.
        """
        arrays, batch = self._checked(observation)
        with np.errstate(over="ignore"):
            columns = [
                arrays[name].reshape(*batch, size).astype(np.float32) for name, size in self.fields
            ]
            goal = None
            if self.goal is not None:
                name, size = self.goal
                goal = arrays[name].reshape(*batch, size).astype(np.float32)
        return np.concatenate(columns, axis=-1), goal

    def unflatten(
        self,
        observation: Float[np.ndarray, "*batch obs"],
        goal: Float[np.ndarray, "*batch goal"] | None = None,
    ) -> dict[str, Any]:
        """Return the fields, each `[..., size]`, as views; the inverse of `flatten`."""
        flat: dict[str, np.ndarray] = {}
        first = 0
        for name, size in self.fields:
            flat[name] = observation[..., first : first + size]
            first += size
        if self.goal is not None:
            if goal is None:
                raise PgdiffError(f"`goal` must be given for the field '{self.goal[0]}'. Got None.")
            flat[self.goal[0]] = goal
        return _nested(flat)

    def _checked(
        self, observation: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
        if not isinstance(observation, Mapping):
            raise PgdiffError(
                f"An observation must be a dict with the fields {sorted(self._sizes)}. "
                f"Got {type(observation).__name__}."
            )
        arrays: dict[str, np.ndarray] = {}
        for name, value in _leaves(observation):
            if name not in self._sizes:
                raise PgdiffError(
                    f"An observation must not have a field '{name}', but "
                    f"{nearest(name, self._sizes)}"
                )
            arrays[name] = _numbers(name, value)
        for name in self._sizes:
            if name not in arrays:
                raise PgdiffError(
                    f"An observation must have the field '{name}'. Got {sorted(arrays)}."
                )
        return arrays, _batch({name: arrays[name].shape for name in self._sizes}, self._sizes)

    @property
    def _sizes(self) -> dict[str, int]:
        return dict([*self.fields, *([self.goal] if self.goal else [])])


def to_json(layout: ObservationLayout) -> str:
    """Return the layout as JSON text, for a file's attribute."""
    return json.dumps(
        {"fields": layout.fields, "goal": layout.goal, "position": layout.position},
        sort_keys=True,
    )


def from_json(text: str | bytes) -> ObservationLayout:
    """Return the layout that `to_json` wrote.

    Raises:
        PgdiffError: if the text is not a layout.
    """
    try:
        values = json.loads(text)
        goal = values["goal"]
        return ObservationLayout(
            fields=tuple(map(tuple, values["fields"])),
            goal=None if goal is None else tuple(goal),
            position=tuple(values["position"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PgdiffError(f"The text is not an observation layout ({error}).") from error


def _named_size(argument: str, pair: Any) -> tuple[str, int]:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise PgdiffError(f"`{argument}` must hold pairs of a name and a size. Got {pair!r}.")
    return pair[0], check_positive_int(f"{argument}: size of '{pair[0]}'", pair[1])


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of nested dicts (or Dict spaces) with their dotted names."""
    for key, value in tree.items():
        if not isinstance(key, str) or "." in key or not key:
            raise PgdiffError(f"A field's name must be a string without a dot. Got {key!r}.")
        name = prefix + key
        if isinstance(value, Mapping):  # a gymnasium.spaces.Dict is one
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def resolve_goal_features(
    goal_features: Sequence[int] | None, layout: ObservationLayout | None
) -> tuple[int, ...]:
    """Return the goal's features of an observation: the given ones, the layout's, or the first two.

    Raises:
        PgdiffError: if `goal_features` does not have as many features as the layout's goal.
    """
    default = () if layout is None else layout.position
    if goal_features is None:
        return default or (0, 1)
    if default and not isinstance(goal_features, str) and len(goal_features) != len(default):
        raise PgdiffError(
            f"`goal_features` must be {len(default)} features, one per number of the recording's "
            f"goals. Got {list(goal_features)}."
        )
    return tuple(goal_features)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, key = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    return tree


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = as_array(name, value)
    except PgdiffError as error:
        raise PgdiffError(f"The field '{name}' must be one array. Got unequal rows.") from error
    if array.dtype.kind not in "biuf":
        raise PgdiffError(f"The field '{name}' must hold numbers. Got {array.dtype}.")
    return array


def _batch(shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the leading axes that all fields share and that leave each field with its size."""
    fewest = min(map(len, shapes.values()))
    lone = [axes for axes in range(fewest, -1, -1) if any(len(s) > axes for s in shapes.values())]
    # Fields of one number may lack the feature axis: tried last.
    for axes in [*lone, fewest]:
        leading = {shape[:axes] for shape in shapes.values()}
        if len(leading) == 1 and all(math.prod(shapes[n][axes:]) == sizes[n] for n in sizes):
            return leading.pop()
    for name, shape in shapes.items():
        if all(math.prod(shape[axes:]) != sizes[name] for axes in range(len(shape) + 1)):
            raise PgdiffError(
                f"The field '{name}' must have shape [{sizes[name]}], after optional batch axes. "
                f"Got {list(shape)}."
            )
    described = ", ".join(f"'{name}' {list(shape)}" for name, shape in shapes.items())
    raise PgdiffError(f"All fields must have the same batch axes. Got {described}.")
