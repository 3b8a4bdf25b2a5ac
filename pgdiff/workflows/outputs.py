"""Output folders of commands: what is there already, and what goes before it is replaced."""

from collections.abc import Sequence
from pathlib import Path

from pgdiff.saving import check_writable
from pgdiff.validation import PgdiffError

EVALUATION = (
    "evaluation.json",
    "aggregate.json",
    "ablation.json",
    "ablation_*.json",
    "run_*/evaluation.json",
    *(f"{at}{name}" for at in ("", "run_*/") for name in (
        "histogram.png", "value_map.png", "failures.png", "episode.gif", "episode_*.gif",
        "rendered.gif", "rendered_*.gif",
    )),
)  # fmt: skip
"""Files of `pgdiff evaluate`."""

PLAN = (
    "plan.json",
    "plan.png",
    "features.png",
    "denoising.gif",
    "levels.png",
    "levels.gif",
    "explanation.json",
    "explanation.png",
    "guided_vs_unguided.png",
    "reach.png",
)
"""Files of `pgdiff plan`."""

TRUTH = ("truth.json", "truth.png")
"""Files of `pgdiff evaluate truth=true`."""


def found(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of these names, which may hold wildcards, that are in a folder."""
    return [file for name in names for file in sorted(folder.glob(name)) if file.is_file()]


def check_out(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Raise an error unless a command's files can be written, before anything is computed.

    Args:
        folder: where the files go.
        names: of the files, see `found`.
        overwrite: whether those that are there may be replaced.

    Raises:
        PgdiffError: some are there and may not be replaced, or the folder cannot be written to.
    """
    there = found(folder, names)
    if there and not overwrite:
        raise PgdiffError(
            f"`out` must be a folder without earlier results. '{there[0]}' exists. "
            "overwrite=true replaces the earlier results, out=PATH names another folder."
        )
    check_writable(folder / names[0])


def remove(folder: Path, names: Sequence[str]) -> None:
    """Remove a command's earlier files, so that none of them is left beside the new ones."""
    for file in found(folder, names):
        file.unlink()
