"""Where the configurations lie, and which groups and choices there are; no Hydra yet."""

import re
from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "configs"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
"""In an installed wheel inside the package, in a checkout beside it."""


def groups(command: str) -> dict[str, str]:
    """Return the groups of a command and the default choice of each."""
    text = (CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^  - (\w+): ([\w-]+)$", text, flags=re.MULTILINE))


def choices(group: str) -> list[str]:
    """Return the choices of a group."""
    return sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))
