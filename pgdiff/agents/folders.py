"""Agents that this package trained, loaded from their folders."""

import json
import os
from pathlib import Path

import torch

from pgdiff.agents.offline import OfflineAgent
from pgdiff.core.pretrained import load_learner
from pgdiff.core.registry import registered
from pgdiff.core.serialization import CONFIG
from pgdiff.core.validation import PgdiffError


def load_folder_agent(
    path: str | os.PathLike[str], *, device: str | torch.device = "auto"
) -> OfflineAgent:
    """Load an agent from its folder, or from the folder of a run with a single agent.

    Args:
        path: the folder of an agent, such as RUN/iql, or of a run, such as RUN.
        device: device of the agent; "auto" uses CUDA if it is available.

    Returns:
        The agent, in evaluation mode.

    Raises:
        PgdiffError: the folder is damaged or holds a network without a policy, or the run has
            no agent or several.
    """
    folder = agent_folder(path)
    agent = load_learner(folder, device=device)
    if not isinstance(agent, OfflineAgent):
        raise PgdiffError(
            f"'{folder}' must hold an agent. Got a {type(agent).__name__}, which has no policy. "
            "Pass the folder of an agent, such as RUN/iql, or a zip file of Stable-Baselines3."
        )
    return agent


def agent_folder(path: str | os.PathLike[str]) -> Path:
    """Return `path` if it is the folder of an agent, or the folder of a run's only agent.

    Raises:
        PgdiffError: the run has no agent or several.
    """
    folder = Path(path)
    if (folder / CONFIG).is_file():
        return folder
    agents = agent_folders(folder)
    if len(agents) == 1:
        return agents[0]
    if agents or (folder / "run.json").is_file():
        names = ", ".join(f"'{agent}'" for agent in agents) or "none"
        raise PgdiffError(
            f"'{folder}' must be the folder of an agent, or of a run with one agent. It has the "
            f"agents: {names}. Pass the folder of the agent, such as RUN/iql."
        )
    return folder  # loading it raises the right error


def agent_folders(folder: Path) -> list[Path]:
    """Return the folders of agents in a folder, sorted by name."""
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
