"""A folder of finished shards: each whole or absent, hashed, and never written twice."""

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

from pgdiff.data.hdf5 import hdf5_bytes
from pgdiff.saving import write_whole
from pgdiff.synthesis.decode import Counts
from pgdiff.validation import PgdiffError

FORMAT = 1
SETTINGS = "settings.json"


@dataclass(frozen=True)
class ShardFolder:
    """Shards `00000.hdf5`, each with `00000.json`, which is written after it, and `settings.json`.

    Attributes:
        path: of the folder.
    """

    path: Path

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note what the shards depend on, or check that it is what was noted.

        Raises:
            PgdiffError: the folder's shards were made with other settings, which are named.
        """
        file = self.path / SETTINGS
        content = {"format": FORMAT, **settings}
        if not file.is_file():
            # Jobs that share a data set may begin at once: one is the first, the others compare.
            own = write_whole(self.path / f".{uuid4().hex}.json", _text(content))
            try:
                _link(own, file)
            finally:
                own.unlink()
        before = _read(file)
        known = json.loads(_text(content))
        for name in sorted(known.keys() | before.keys()):
            if known.get(name) != before.get(name):
                raise PgdiffError(
                    f"`{name}` must be what the shards in '{self.path}' were made with: "
                    f"{_short(before.get(name))}. Got {_short(known.get(name))}. Keep it, choose "
                    "another place, or begin anew with overwrite=true."
                )

    def write(self, number: int, rows: Mapping[str, np.ndarray], counts: Counts) -> None:
        """Write a shard, all or nothing."""
        file = self.file(number)
        # By way of memory: HDF5's library on a full disk leaves pages of messages, and files.
        content = hdf5_bytes(rows)
        digest = hashlib.sha256(content).hexdigest()
        note = {"sha256": digest, "bytes": len(content), "counts": asdict(counts)}
        try:
            write_whole(file, content)
            write_whole(self._note(number), _text(note))
        except PgdiffError as error:
            raise PgdiffError(
                f"{error} The {len(self.finished())} finished shards are kept: make room, and go "
                "on with resume=true."
            ) from error

    def file(self, number: int) -> Path:
        """Path of a shard."""
        return self.path / f"{number:05d}.hdf5"

    def counts(self, number: int) -> Counts | None:
        """What a finished shard holds; None of one that is not."""
        note = self._note(number)
        return Counts(**_read(note)["counts"]) if note.is_file() else None

    def finished(self) -> list[int]:
        """Numbers of the finished shards."""
        found = (path.stem for path in self.path.glob("*.json") if path.name != SETTINGS)
        return sorted(int(name) for name in found if name.isdigit())

    def verify(self, number: int) -> None:
        """Compare a finished shard with its hash.

        Raises:
            PgdiffError: it is missing, or is not what was written.
        """
        file, note = self.file(number), _read(self._note(number))
        if not file.is_file() or note.get("sha256") != _sha256(file):
            raise PgdiffError(
                f"'{file}' is missing or damaged: its content is not what was written (SHA-256). "
                f"Remove '{self._note(number)}' to have it made again by resume=true."
            )

    def rows(self, number: int) -> dict[str, np.ndarray]:
        """Read a shard."""
        with h5py.File(self.file(number), "r") as file:
            return {name: file[name][()] for name in file}

    def join(self, numbers: range, out: Path) -> None:
        """Write all rows of these shards as one file, shard after shard; whole or not at all."""
        part = out.with_name(f".{out.name}.part")
        needed = sum(self.file(number).stat().st_size for number in numbers)
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise PgdiffError(
                f"Cannot write '{out}', which takes {needed / 1e6:,.0f} MB: {free / 1e6:,.0f} MB "
                f"are free. All shards are kept in '{self.path}': make room, and go on with "
                "resume=true."
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
                f"Cannot write '{out}': {error}. All shards are kept in '{self.path}': make room, "
                "and go on with resume=true."
            ) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _note(self, number: int) -> Path:
        return self.path / f"{number:05d}.json"


def _link(own: Path, file: Path) -> None:
    """Give a file a name that nobody else has given yet."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(own, file)
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise
            with file.open("x") as stream:  # no hard links on this disk
                stream.write(own.read_text())


def shards_of(out: Path) -> Path:
    """Where the shards of an output lie."""
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
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise PgdiffError(f"'{file}' is no JSON: {error}. Remove it.") from error
    if not isinstance(found, dict):
        raise PgdiffError(f"'{file}' must hold an object. Remove it.")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else f"{text[:200]}..."
