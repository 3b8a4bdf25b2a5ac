"""The fields of a recording, by the names that D4RL's HDF5 files give them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """What a field must look like.

    Attributes:
        name: its path in an HDF5 file.
        rank: 2 for `[steps, features]`, 1 for `[steps]` (`[steps, 1]` is read as that too).
        flag: whether it holds only 0 and 1.
        required: whether a recording must have it.
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
"""All fields that are read; any other field of a file is left alone."""

BY_NAME = {field.name: field for field in FIELDS}
