"""Fields of a recording, under the names of D4RL's HDF5 files."""

from dataclasses import dataclass

from pgdiff.core.registry import registered


@dataclass(frozen=True)
class Problem:
    """One fault found in recorded data.

    Attributes:
        field: name of the field, or "file" for a fault of the file itself.
        row: first faulty row, counted from 0; None if the whole field is faulty.
        message: description of the fault.
        fix: instruction that removes the fault.
        hint: if True, the finding may be intended; recordings with hints only are loaded.

    Example:
        >>> from pgdiff.data import Problem
        >>> print(Problem("rewards", 3, "is NaN (1 row).", "Repair the value."))
        `rewards`, row 3: is NaN (1 row). Repair the value.
    """

    field: str
    row: int | None
    message: str
    fix: str
    hint: bool = False

    def __str__(self) -> str:
        location = f"`{self.field}`" if self.row is None else f"`{self.field}`, row {self.row}"
        return f"{location}: {self.message} {self.fix}"


@dataclass(frozen=True)
class Field:
    """Required form of a field.

    Attributes:
        name: path in an HDF5 file.
        rank: 2 for `[steps, features]`, 1 for `[steps]` (`[steps, 1]` is accepted as well).
        flag: if True, the only values are 0 and 1.
        required: if True, every recording must have the field.
    """

    name: str
    rank: int
    flag: bool = False
    required: bool = False


FIELDS = (
    Field("observations", 2, required=True),
    Field("actions", 2, required=True),
    Field("rewards", 1, required=True),
    Field("terminals", 1, flag=True, required=True),
    Field("timeouts", 1, flag=True),
    Field("next_observations", 2),
    Field("infos/goal", 2),
    Field("infos/next_goal", 2),
    Field("infos/qpos", 2),
    Field("infos/qvel", 2),
    Field("infos/class", 2),
)
"""Fields of every recording; other fields of a file are ignored."""


def recording_fields() -> dict[str, Field]:
    """Return the fields that are read, by name: `FIELDS` and the `infos` of registered parts.

    These parts are token fields and conditions.
    """
    classes = [*registered("token_field").values(), *registered("condition").values()]
    names = [f"infos/{name}" for cls in classes for name in getattr(cls, "infos", ())]
    return {field.name: field for field in (*FIELDS, *(Field(name, 2) for name in names))}
