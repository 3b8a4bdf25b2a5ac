"""Zip archives by strangers: their members as bytes, or one clear error."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PureWindowsPath

from pgdiff.validation import PgdiffError

MAX_BYTES = 2**30
"""Largest archive, and largest sum of its members, that is read."""
MAX_RATIO = 100
"""How many times its compressed size a member may be; agents' data reach about 4."""
MAX_MEMBERS = 10_000
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    OSError,
)


def read_file(path: str | os.PathLike[str], *, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a file that is no larger than `limit` bytes.

    Raises:
        PgdiffError: no such file, a folder, a file that cannot be read, or a larger one.
    """
    file = Path(path)
    if file.is_dir():
        raise PgdiffError(f"'{file}' must be a file. Got a folder.")
    if not file.is_file():
        raise PgdiffError(f"'{file}' does not exist.")
    try:
        with open(file, "rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise PgdiffError(f"Cannot read '{file}': {error}.") from error
    if len(data) > limit:
        raise PgdiffError(f"'{file}' must be of at most {limit} bytes. It is larger.")
    return data


def read_members(
    data: bytes, *, where: str, only: Collection[str] | None = None
) -> dict[str, bytes]:
    """Return members of a zip archive by name, after checking all that it declares.

    Nothing is written to a disk, and nothing is decompressed beyond what was declared and
    checked.

    Args:
        data: the archive.
        where: what it is called, for errors.
        only: names of the members that are read; all if None.

    Raises:
        PgdiffError: no zip archive or a damaged one; a member that is encrypted, a link, twice
            there, of another compression than deflate, or of a name that leads out of a folder;
            more than `MAX_BYTES`, `MAX_RATIO` or `MAX_MEMBERS` allow.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check(members, where=where)
            return {
                member.filename: archive.read(member)
                for member in members
                if only is None or member.filename in only
            }
    except PgdiffError:
        raise
    except _DAMAGE as error:
        raise PgdiffError(f"'{where}' is no zip archive, or a damaged one: {error}.") from error


def write_members(members: Mapping[str, bytes]) -> io.BytesIO:
    """Return a plain zip archive of these members and of nothing else."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    stream.seek(0)
    return stream


def _check(members: list[zipfile.ZipInfo], *, where: str) -> None:
    if len(members) > MAX_MEMBERS:
        raise PgdiffError(f"'{where}' must have at most {MAX_MEMBERS} members. Got {len(members)}.")
    if members and min(member.header_offset for member in members) > 0:
        # An archive in an archive that is cut off is found in its stead.
        raise PgdiffError(f"'{where}' is no zip archive from its first byte on, or is cut off.")
    seen: set[str] = set()
    total = 0
    for member in members:
        name = member.orig_filename  # `filename` ends at a NUL and has its separators changed
        shown = name[:100].encode("unicode_escape").decode("ascii")
        parts = name.rstrip("/").split("/")
        if PureWindowsPath(name).anchor or "\\" in name or "\0" in name or {"..", ""} & {*parts}:
            raise PgdiffError(f"'{where}' has the member '{shown}', whose name is not allowed.")
        if name in seen:
            raise PgdiffError(f"'{where}' has the member '{shown}' twice.")
        seen.add(name)
        if member.flag_bits & 0x1:
            raise PgdiffError(f"'{where}' has the member '{shown}', which is encrypted.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise PgdiffError(f"'{where}' has the member '{shown}', which is a link.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise PgdiffError(
                f"'{where}' has the member '{shown}', which must be stored or deflated. "
                f"Got compression method {member.compress_type}."
            )
        total += member.file_size
        if total > MAX_BYTES:
            raise PgdiffError(f"'{where}' must unpack to at most {MAX_BYTES} bytes. It has more.")
        if member.file_size > MAX_RATIO * max(member.compress_size, 1):
            raise PgdiffError(
                f"'{where}' has the member '{shown}', which unpacks to more than {MAX_RATIO} "
                f"times its size ({member.compress_size} to {member.file_size} bytes)."
            )
