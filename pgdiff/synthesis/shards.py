"""Folder of finished shards, written atomically and hashed."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np

from pgdiff.core.serialization import write_whole
from pgdiff.core.validation import PgdiffError
from pgdiff.data.formats.hdf5 import hdf5_bytes
from pgdiff.synthesis.decode import Counts

FORMAT = 1
SETTINGS = "settings.json"


@dataclass(frozen=True)
class ShardFolder:
    """Folder with `settings.json` and shards.

    Shard 0 is stored in `00000.hdf5`. Its hash and counts are written to `00000.json` afterwards
    and mark it as finished.

    Attributes:
        path: path of the folder.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pgdiff.synthesis import Counts, ShardFolder
        >>> with tempfile.TemporaryDirectory() as path:
        ...     shards = ShardFolder(Path(path))
        ...     shards.write(0, {"rewards": np.zeros(3)}, Counts(transitions=3))
        ...     shards.verify(0)
        ...     print(shards.finished(), shards.counts(0).transitions)
        [0] 3
    """

    path: Path

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the settings of the shards, or compare them with the existing settings.

        Raises:
            PgdiffError: the existing shards were generated with another value of a setting.
        """
        file = self.path / SETTINGS
        content = {"format": FORMAT, **settings}
        if not file.is_file():
            # Of jobs that start at the same time, the first writes the file and the others compare.
            temporary = write_whole(self.path / f".{uuid4().hex}.json", _text(content))
            try:
                _link(temporary, file)
            finally:
                temporary.unlink()
        existing = _read(file)
        requested = json.loads(_text(content))
        for name in sorted(requested.keys() | existing.keys()):
            if requested.get(name) != existing.get(name):
                raise PgdiffError(
                    f"`{name}` must equal the setting of the shards in '{self.path}': "
                    f"{_short(existing.get(name))}. Got {_short(requested.get(name))}. Use equal "
                    "settings, choose another output, or replace the shards with overwrite=true."
                )

    def write(self, number: int, rows: Mapping[str, np.ndarray], counts: Counts) -> None:
        """Write a shard atomically."""
        file = self.file(number)
        # Via memory: on a full disk HDF5's library prints pages of messages and leaves files.
        content = hdf5_bytes(rows)
        digest = hashlib.sha256(content).hexdigest()
        record = {"sha256": digest, "bytes": len(content), "counts": asdict(counts)}
        try:
            write_whole(file, content)
            write_whole(self._record(number), _text(record))
        except PgdiffError as error:
            raise PgdiffError(
                f"{error} The {len(self.finished())} finished shards are kept. Free disk space "
                "and continue with resume=true."
            ) from error

    def file(self, number: int) -> Path:
        """Return the path of a shard."""
        return self.path / f"{number:05d}.hdf5"

    def counts(self, number: int) -> Counts | None:
        """Return the counts of a finished shard; None if it is not finished."""
        record = self._record(number)
        return Counts(**_read(record)["counts"]) if record.is_file() else None

    def finished(self) -> list[int]:
        """Return the numbers of the finished shards."""
        names = (path.stem for path in self.path.glob("*.json") if path.name != SETTINGS)
        return sorted(int(name) for name in names if name.isdigit())

    def verify(self, number: int) -> None:
        """Raise if a finished shard does not match its hash.

        Raises:
            PgdiffError: the shard is missing or was changed.
        """
        file, record = self.file(number), _read(self._record(number))
        if not file.is_file() or record.get("sha256") != _sha256(file):
            raise PgdiffError(
                f"'{file}' is missing or damaged: its SHA-256 differs from the recorded one. "
                f"Remove '{self._record(number)}' and generate the shard again with resume=true."
            )

    def rows(self, number: int) -> dict[str, np.ndarray]:
        """Return the rows of a shard."""
        with h5py.File(self.file(number), "r") as file:
            return {name: file[name][()] for name in file}

    def join(self, numbers: range, out: Path) -> None:
        """Write the rows of shards to one file, in their order, atomically."""
        part = out.with_name(f".{out.name}.part")
        needed = sum(self.file(number).stat().st_size for number in numbers)
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise PgdiffError(
                f"Cannot write '{out}': it needs {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB "
                f"are free. All shards are kept in '{self.path}'. Free disk space and continue "
                "with resume=true."
            )
        try:
            with h5py.File(part, "w", track_order=False) as file:
                for number in numbers:
                    for name, values in sorted(self.rows(number).items()):
                        _append(file, name, values)
            part.replace(out)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise PgdiffError(
                f"Cannot write '{out}': {error}. All shards are kept in '{self.path}'. Free disk "
                "space and continue with resume=true."
            ) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _record(self, number: int) -> Path:
        return self.path / f"{number:05d}.json"


def _link(source: Path, file: Path) -> None:
    """Give a complete file its final name unless that name exists."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(source, file)
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise
            with file.open("x") as stream:  # the disk does not support hard links
                stream.write(source.read_text())


def shards_of(out: Path) -> Path:
    """Return the folder of an output's shards."""
    return out.with_name(f"{out.name}.shards")


def _append(file: h5py.File, name: str, values: np.ndarray) -> None:
    if name not in file:
        file.create_dataset(
            name,
            data=values,
            maxshape=(None, *values.shape[1:]),
            chunks=(4096, *values.shape[1:]),
            track_times=False,
        )
        return
    dataset = file[name]
    first = len(dataset)
    dataset.resize(first + len(values), axis=0)
    dataset[first:] = values


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise PgdiffError(f"'{file}' is not valid JSON: {error}. Remove it.") from error
    if not isinstance(content, dict):
        raise PgdiffError(f"'{file}' must hold a JSON object. Remove it.")
    return content


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else f"{text[:200]}..."
