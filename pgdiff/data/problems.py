"""A fault of recorded data: which field, which row, what is wrong, and how to fix it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault found in recorded data.

    Attributes:
        field: name of the field, or "file" where the fault is the file's.
        row: first row at fault, counted from 0; None where it is the whole field.
        message: what is wrong.
        mend: what to do about it.
        hint: whether this only may be a fault; recordings with hints alone are loaded.
    """

    field: str
    row: int | None
    message: str
    mend: str
    hint: bool = False

    def __str__(self) -> str:
        place = f"`{self.field}`" if self.row is None else f"`{self.field}`, row {self.row}"
        return f"{place}: {self.message} {self.mend}"
