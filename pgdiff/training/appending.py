"""A file that grows record by record, and that a full disk cannot spoil."""

import os
import warnings
from pathlib import Path


class AppendingFile:
    """Appends whole records; one that cannot be written waits, and training goes on.

    What a failed write has left of a record is cut off again, so that the file holds whole records
    only. The records that wait are tried again with the next one and at the end; the first failure
    warns, with path and bytes.

    Args:
        path: the file; its folder must be there.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._size = self._file.seek(0, os.SEEK_END)
        self._waiting = b""
        self._warned = False

    def write(self, record: bytes) -> None:
        """Append a record, after those that wait."""
        self._waiting += record
        try:
            written = 0
            while written < len(self._waiting):  # a raw file may take a part
                written += self._file.write(self._waiting[written:])
        except OSError as error:
            self._file.truncate(self._size)
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"Cannot write '{self.path}' ({len(self._waiting)} bytes): {error}. Training "
                    "goes on without; what is missing is tried again with every record.",
                    UserWarning,
                    stacklevel=2,
                )
            return
        self._size += written
        self._waiting = b""

    def flush(self) -> None:
        """Nothing waits in a buffer; writers of records ask for this."""

    def close(self) -> None:
        """Try once more what waits, and close."""
        if not self._file.closed:
            if self._waiting:
                self.write(b"")
            self._file.close()
