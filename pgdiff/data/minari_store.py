"""Minari's local store: where a data set of an id lies."""

import os
import re
from pathlib import Path

from pgdiff.validation import PgdiffError, user_path

# As in Minari's documentation, (namespace/)name-vN; a namespace may be nested. No dots: an id never
# leads out of the store.
_ID = re.compile(r"(?:[-\w]+/)*[-\w]*\w-v\d+")


DATA, MAIN, METADATA = "data", "main_data.hdf5", "metadata.json"
"""In the folder of a data set: a folder, and two files in it."""


def is_minari_id(text: str) -> bool:
    """Whether this may be the id of a data set."""
    return _ID.fullmatch(text) is not None


def minari_store() -> Path:
    """The folder of the local store, as Minari chooses it."""
    given = os.environ.get("MINARI_DATASETS_PATH")
    return user_path(given) if given else Path.home() / ".minari" / "datasets"


def minari_folder(dataset_id: str) -> Path:
    """Where the data set of this id lies, or would lie.

    Raises:
        PgdiffError: no id.
    """
    if not is_minari_id(dataset_id):
        raise PgdiffError(
            f"`dataset_id` must be like 'namespace/name-v0' (Minari's ids). Got '{dataset_id}'."
        )
    return minari_store() / dataset_id
