"""Agents of Stable-Baselines3 from their zips, without running anything that is in them."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium.spaces import Box
from torch import nn

from pgdiff.agents.agent import Agent
from pgdiff.agents.archive import read_file, read_members
from pgdiff.agents.families import FAMILIES, build_policy, read_sizes
from pgdiff.agents.folders import load_folder_agent
from pgdiff.agents.offline import OfflineAgent
from pgdiff.agents.spaces import choose_box
from pgdiff.agents.vec_normalize import read_vec_normalize
from pgdiff.agents.weights import read_weights
from pgdiff.saving import resolve_device
from pgdiff.validation import PgdiffError, check_in, nearest

ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.LeakyReLU, nn.Mish, nn.ReLU6, nn.SELU, nn.SiLU,
        nn.Sigmoid, nn.Softplus, nn.Softsign,
    )
}  # fmt: skip
"""Activations that a file may ask for, by PyTorch's name."""


@torch.inference_mode(False)
def load(
    source: Any,
    *,
    observation_space: Box | None = None,
    action_space: Box | None = None,
    algorithm: str | None = None,
    activation: str | type[nn.Module] | None = None,
    vec_normalize: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
) -> Agent | OfflineAgent:
    """Load an agent that Stable-Baselines3 or sb3-contrib saved, or one that this package trained.

    The former are SAC, TD3, DDPG, TQC, PPO and A2C; the latter IQL, TD3+BC and cloning.

    Nothing in the file is run. Weights come from its `policy.pth`, and with their shapes the sizes
    and numbers of layers, critics and quantiles. The rest is plain text of its JSON, whose pickles
    are left alone: which algorithm it is, the spaces as printed, the name of the activation. What
    is missing there is an argument. Files of Stable-Baselines3 1.x (gym) and 2.x are read.

    Args:
        source: the zip; or a live model of Stable-Baselines3 (`Agent.of`), whose weights are
            shared, and with which only `vec_normalize` is an argument; or the folder of an agent
            that this package trained, or of a run with one such agent, with which only `device` is
            an argument.
        observation_space: instead of the one that the file prints.
        action_space: instead of the one that the file prints, which has eight decimals.
        algorithm: instead of what the file says.
        activation: instead of the one that the file names: PyTorch's name ("Tanh") or a class.
        vec_normalize: the file of `VecNormalize.save`, if the agent was trained with one.
        device: where the agent is to be; "auto" is CUDA where there is one.

    Returns:
        The agent, in evaluation mode; a loaded one has frozen weights.

    Raises:
        PgdiffError: a file that is absent, damaged, hostile, or of an agent of another kind. The
            message names the fault, and the argument that mends it where one does.
    """
    given = {
        "observation_space": observation_space,
        "action_space": action_space,
        "algorithm": algorithm,
        "activation": activation,
    }
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        _check_left_out(given | {"vec_normalize": vec_normalize}, "the folder of an agent")
        return load_folder_agent(source, device=device)
    statistics = None if vec_normalize is None else read_vec_normalize(vec_normalize)
    if not isinstance(source, str | os.PathLike):
        _check_left_out(given | {"device": None if device == "auto" else device}, "a live model")
        return Agent.of(source, vec_normalize=statistics)
    where = os.fspath(source)
    members = read_members(
        read_file(_existing(Path(source))), where=where, only=("data", "policy.pth")
    )
    if "policy.pth" not in members:
        raise PgdiffError(
            f"'{where}' has no 'policy.pth': it is no agent that Stable-Baselines3 saved."
        )
    data = _read_json(members.get("data", b"{}"), where=where)
    settings = data.get("policy_kwargs")
    settings = settings if isinstance(settings, dict) else {}
    name = _choose_algorithm(data, algorithm, where=where)
    family = FAMILIES[name]
    _check_extractor(settings, where=where)
    weights = read_weights(members["policy.pth"], where=f"{where}:policy.pth")
    observation, action = read_sizes(family, weights, where=f"{where}:policy.pth")
    policy = build_policy(
        family,
        weights,
        observation_space=choose_box(
            data.get("observation_space"),
            observation_space,
            size=observation,
            name="observation_space",
            where=where,
        ),
        action_space=choose_box(
            data.get("action_space"), action_space, size=action, name="action_space", where=where
        ),
        activation=_choose_activation(
            settings.get("activation_fn"), activation, default=family.activation, where=where
        ),
        settings=settings,
        where=where,
    )
    if name == "TD3" and algorithm is None and len(policy.critic.q_networks) == 1:
        name = "DDPG"  # of the same policy class, with one critic
    agent = Agent(policy, algorithm=name, vec_normalize=statistics)
    return agent.to(resolve_device(device)).eval()


def _check_left_out(given: Mapping[str, object], what: str) -> None:
    if extra := next((name for name, value in given.items() if value is not None), None):
        raise PgdiffError(f"`{extra}` must be left out with {what}, which has its own.")


def _existing(path: Path) -> Path:
    """The path, or the path with ".zip", which `save` adds to a name without it."""
    zipped = Path(f"{path}.zip")
    return zipped if not path.exists() and zipped.is_file() else path


def _read_json(data: bytes, *, where: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PgdiffError(f"The member 'data' of '{where}' is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise PgdiffError(f"The member 'data' of '{where}' must be a JSON object. It is another.")
    return content


def _choose_algorithm(data: dict[str, Any], given: str | None, *, where: str) -> str:
    if given is not None:
        return check_in("algorithm", given, FAMILIES)
    described = data.get("policy_class")
    module = described.get("__module__") if isinstance(described, dict) else None
    names = [name for name, family in FAMILIES.items() if family.module == module]
    if "PPO" in names:  # the class of several algorithms' policies
        names = ["PPO"] if "clip_range" in data else ["A2C"]
        names = [] if "cg_max_steps" in data else names  # TRPO
    if not names:
        raise PgdiffError(
            f"'{where}' must be an agent by {', '.join(FAMILIES)}. Its policy is of the module "
            f"{_shown(module)}. If its networks are those of one of them, pass `algorithm=`; "
            "otherwise load it with its own library."
        )
    return names[0]


def _check_extractor(settings: dict[str, Any], *, where: str) -> None:
    extractor = settings.get("features_extractor_class")
    flat = isinstance(extractor, str) and extractor.endswith(".FlattenExtractor'>")
    if extractor is not None and not flat:
        raise PgdiffError(
            f"'{where}' has a features extractor of its own ({_shown(extractor)}), which is "
            "code that no file can be trusted with. Load it with Stable-Baselines3 and pass the "
            "model."
        )


def _choose_activation(
    printed: object,
    given: str | type[nn.Module] | None,
    *,
    default: type[nn.Module],
    where: str,
) -> type[nn.Module]:
    if isinstance(given, str):
        return ACTIVATIONS[check_in("activation", given, ACTIVATIONS)]
    if isinstance(given, type) and issubclass(given, nn.Module):
        return given
    if given is not None:
        raise PgdiffError(f"`activation` must be a name or a class of a module. Got {given!r}.")
    if printed is None:
        return default
    match = re.fullmatch(
        r"<class 'torch\.nn\.modules\.activation\.(\w{1,40})'>",
        printed if isinstance(printed, str) else "",
    )
    if match is None or match[1] not in ACTIVATIONS:
        raise PgdiffError(
            f"'{where}' has the activation {_shown(printed)}, which is not known. Pass "
            f"`activation=`, a class or {nearest('', ACTIVATIONS)}"
        )
    return ACTIVATIONS[match[1]]


def _shown(value: object) -> str:
    return repr(value[:100]) if isinstance(value, str) else f"a {type(value).__name__}"
