"""JSON files that appear whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from pgdiff.saving import write_whole


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """Write JSON as `pgdiff.saving.write_whole` does; return the path.

    Args:
        path: of the file; its folder is made where it is absent.
        content: plain, finite JSON values.
    """
    return write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
