"""Where a recording lies: an HDF5 file, or a data set of Minari's."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pgdiff.data.hdf5 import open_hdf5
from pgdiff.data.minari_read import open_minari
from pgdiff.data.minari_store import (
    DATA,
    MAIN,
    METADATA,
    is_minari_id,
    minari_folder,
    minari_store,
)
from pgdiff.data.problems import Problem
from pgdiff.data.recording import Recording
from pgdiff.validation import PgdiffError, user_path


@dataclass(frozen=True)
class Place:
    """A recording's files.

    Attributes:
        path: of the HDF5 file, the name in messages.
        folder: Minari's `data` folder, or None of a file in D4RL's layout.
    """

    path: Path
    folder: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the recording is read from."""
        return (self.path,) if self.folder is None else (self.path, self.folder / METADATA)

    @property
    def exists(self) -> bool:
        """Whether all of them are there."""
        return all(file.is_file() for file in self.files)

    def open(self, problems: list[Problem]) -> AbstractContextManager[Recording]:
        """Open it for reading, appending its faults to `problems`."""
        if self.folder is None:
            return open_hdf5(self.path, problems)
        return open_minari(self.folder, problems)


def find_place(source: str | os.PathLike[str]) -> Place:
    """Return where a path or a Minari id leads; a path that exists goes before an id.

    A leading "~" is the home directory.

    Raises:
        PgdiffError: a Minari id that is not in the local store.
    """
    path = user_path(source)
    for folder in (path / DATA, path):
        if (folder / METADATA).is_file():
            return Place(folder / MAIN, folder)
    if path.exists() or not is_minari_id(str(source)):
        return Place(path)
    folder = minari_folder(str(source)) / DATA
    if not folder.is_dir():
        raise PgdiffError(
            f"'{source}' is no file, and no Minari data set of that id is in '{minari_store()}'. "
            f"Fetch it with `minari download {source}` (pip install 'pgdiff-rl[minari]'), or name "
            "another store by MINARI_DATASETS_PATH."
        )
    return Place(folder / MAIN, folder)
