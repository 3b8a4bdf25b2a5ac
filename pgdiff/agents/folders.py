"""Agents that this package has trained, from the folders that they are saved in."""

import json
import os
from pathlib import Path

import torch

from pgdiff.agents.offline import OfflineAgent
from pgdiff.pretrained import load_learner
from pgdiff.registry import registered
from pgdiff.saving import CONFIG
from pgdiff.validation import PgdiffError


def load_folder_agent(
    path: str | os.PathLike[str], *, device: str | torch.device = "auto"
) -> OfflineAgent:
    """Read an agent from its folder, or from that of a run in which it is the only agent.

    Args:
        path: what `save_pretrained` wrote, such as RUN/iql; or a run folder, RUN.
        device: where the agent is to be; "auto" is CUDA where there is one.

    Returns:
        The agent, in evaluation mode.

    Raises:
        PgdiffError: a folder that is damaged, that holds a network without a policy, or a run
            with no agent or several.
    """
    folder = agent_folder(path)
    agent = load_learner(folder, device=device)
    if not isinstance(agent, OfflineAgent):
        raise PgdiffError(
            f"'{folder}' must hold an agent, which acts. Got a {type(agent).__name__}, without a "
            "policy: pass the folder of an agent, such as RUN/iql, or a zip of Stable-Baselines3."
        )
    return agent


def agent_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the agent: the given one, or that of the only agent of a run.

    Raises:
        PgdiffError: a run with no agent or several.
    """
    folder = Path(path)
    if (folder / CONFIG).is_file():
        return folder
    found = agent_folders(folder)
    if len(found) == 1:
        return found[0]
    if found or (folder / "run.json").is_file():
        names = ", ".join(f"'{one}'" for one in found) or "none"
        raise PgdiffError(
            f"'{folder}' must be the folder of an agent, or of a run that has one. Got {names} "
            "in it: pass the folder of the agent, such as RUN/iql."
        )
    return folder  # reading it names the fault


def agent_folders(folder: Path) -> list[Path]:
    """Return the folders of agents that lie in a folder, by name."""
    agents = {
        name for name, kind in registered("learner").items() if issubclass(kind, OfflineAgent)
    }
    return [file.parent for file in sorted(folder.glob(f"*/{CONFIG}")) if _learner(file) in agents]


def _learner(file: Path) -> str | None:
    try:
        name = json.loads(file.read_bytes())["learner"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None
