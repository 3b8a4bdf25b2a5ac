"""Output folders of commands: check for earlier results and remove them."""

from collections.abc import Sequence
from pathlib import Path

from pgdiff.core.serialization import check_writable
from pgdiff.core.validation import PgdiffError

EVALUATION = (
    "evaluation.json",
    "aggregate.json",
    "ablation.json",
    "ablation_*.json",
    "run_*/evaluation.json",
    *(f"{folder}{name}" for folder in ("", "run_*/") for name in (
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


def existing_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the existing files in a folder that match names, which may contain wildcards."""
    return [file for name in names for file in sorted(folder.glob(name)) if file.is_file()]


def check_out(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Raise if a command's files cannot be written, before anything is computed.

    Args:
        folder: the output folder.
        names: names of the files, see `existing_files`.
        overwrite: True to allow replacing existing files.

    Raises:
        PgdiffError: if files exist and `overwrite` is False, or the folder is not writable.
    """
    existing = existing_files(folder, names)
    if existing and not overwrite:
        raise PgdiffError(
            f"`out` must be a folder without earlier results. '{existing[0]}' exists. "
            "overwrite=true replaces the earlier results; out=PATH selects another folder."
        )
    check_writable(folder / names[0])


def remove(folder: Path, names: Sequence[str]) -> None:
    """Remove a command's earlier files, so that old and new results do not mix."""
    for file in existing_files(folder, names):
        file.unlink()
