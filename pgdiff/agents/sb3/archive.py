"""Safe reading of untrusted zip archives."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PureWindowsPath

from pgdiff.core.validation import PgdiffError

MAX_BYTES = 2**30
"""Largest size of an archive, and of all its members together."""
MAX_RATIO = 100
"""Largest ratio of a member's size to its compressed size; that of agents is about 4."""
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
    """Return the content of a file of at most `limit` bytes.

    Raises:
        PgdiffError: the file does not exist, is a folder, cannot be read, or is too large.
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
        raise PgdiffError(f"'{file}' must have at most {limit} bytes. It is larger.")
    return data


def read_members(
    data: bytes, *, where: str, only: Collection[str] | None = None
) -> dict[str, bytes]:
    """Return members of a zip archive by name, after checking its directory.

    Nothing is written to disk, and no member is decompressed beyond its declared size.

    Args:
        data: the archive.
        where: name of the archive, for errors.
        only: names of the members to read; all if None.

    Raises:
        PgdiffError: the data are not a zip archive, or damaged; a member is encrypted, a link,
            duplicated, compressed by a method other than deflate, or named to leave its folder;
            `MAX_BYTES`, `MAX_RATIO` or `MAX_MEMBERS` is exceeded.
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
        raise PgdiffError(
            f"'{where}' must be an intact zip archive. Reading it failed: {error}."
        ) from error


def write_members(members: Mapping[str, bytes]) -> io.BytesIO:
    """Return an uncompressed zip archive of these members."""
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
        # Of a truncated archive, zipfile may read an archive inside of it instead.
        raise PgdiffError(
            f"'{where}' must be a zip archive from its first byte. It may be cut off."
        )
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
