"""Load agents from the zip files of Stable-Baselines3, without running code from them."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium.spaces import Box
from torch import nn

from pgdiff.agents.folders import load_folder_agent
from pgdiff.agents.offline import OfflineAgent
from pgdiff.agents.sb3.archive import read_file, read_members
from pgdiff.agents.sb3.families import FAMILIES, build_policy, read_sizes
from pgdiff.agents.sb3.policy import Agent
from pgdiff.agents.sb3.spaces import choose_box
from pgdiff.agents.sb3.vec_normalize import read_vec_normalize
from pgdiff.agents.sb3.weights import read_weights
from pgdiff.core.serialization import resolve_device
from pgdiff.core.validation import PgdiffError, check_in, nearest

ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.LeakyReLU, nn.Mish, nn.ReLU6, nn.SELU, nn.SiLU,
        nn.Sigmoid, nn.Softplus, nn.Softsign,
    )
}  # fmt: skip
"""Activations that a file may name, by PyTorch's name."""


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
    """Load an agent of Stable-Baselines3 or sb3-contrib, or an agent that this package trained.

    Supported are SAC, TD3, DDPG, TQC, PPO and A2C, and this package's IQL, TD3+BC and cloning.

    No code in the file is run. Weights are read from its `policy.pth`; their shapes determine the
    sizes and numbers of layers, critics and quantiles. Algorithm, spaces and activation are read
    from the plain text of its JSON; pickles in it are ignored. Missing values are passed as
    arguments. Files of Stable-Baselines3 1.x (gym) and 2.x are supported.

    Args:
        source: one of: a zip file; a live model of Stable-Baselines3, whose weights are shared
            (`Agent.of`; of the arguments only `vec_normalize` is allowed); the folder of an agent
            that this package trained, or of a run with one such agent (only `device` is allowed).
        observation_space: replaces the space in the file.
        action_space: replaces the space in the file, which is printed with eight decimals.
        algorithm: replaces the algorithm in the file.
        activation: replaces the activation in the file: PyTorch's name ("Tanh") or a class.
        vec_normalize: file of `VecNormalize.save`, if the agent was trained in one.
        device: device of the agent; "auto" uses CUDA if it is available.

    Returns:
        The agent, in evaluation mode; an agent from a zip file has frozen weights.

    Raises:
        PgdiffError: the file is missing, damaged, unsafe, or of an unsupported agent. The message
            names the fault, and the argument that fixes it if there is one.

    Example:
        >>> import tempfile
        >>> from pgdiff.agents import Cloning
        >>> from pgdiff.testing import example_episodes
        >>> agent = Cloning.from_episodes(example_episodes(), members=1, width=16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     agent.save_pretrained(f"{folder}/cloning")
        ...     loaded = load(f"{folder}/cloning", device="cpu")
        >>> type(loaded).__name__
        'Cloning'
    """
    overrides = {
        "observation_space": observation_space,
        "action_space": action_space,
        "algorithm": algorithm,
        "activation": activation,
    }
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        _check_omitted(overrides | {"vec_normalize": vec_normalize}, "the folder of an agent")
        return load_folder_agent(source, device=device)
    statistics = None if vec_normalize is None else read_vec_normalize(vec_normalize)
    if not isinstance(source, str | os.PathLike):
        _check_omitted(overrides | {"device": None if device == "auto" else device}, "a live model")
        return Agent.of(source, vec_normalize=statistics)
    where = os.fspath(source)
    members = read_members(
        read_file(_with_suffix(Path(source))), where=where, only=("data", "policy.pth")
    )
    if "policy.pth" not in members:
        raise PgdiffError(
            f"'{where}' must be an agent that Stable-Baselines3 saved. It has no 'policy.pth'."
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
        name = "DDPG"  # has the policy class of TD3, with one critic
    agent = Agent(policy, algorithm=name, vec_normalize=statistics)
    return agent.to(resolve_device(device)).eval()


def _check_omitted(arguments: Mapping[str, object], source: str) -> None:
    if extra := next((name for name, value in arguments.items() if value is not None), None):
        raise PgdiffError(f"`{extra}` must be left out for {source}, which defines it.")


def _with_suffix(path: Path) -> Path:
    """Return the path, or if it does not exist the path with ".zip", which `save` appends."""
    zipped = Path(f"{path}.zip")
    return zipped if not path.exists() and zipped.is_file() else path


def _read_json(data: bytes, *, where: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PgdiffError(
            f"The member 'data' of '{where}' must be JSON. Reading it failed: {error}."
        ) from error
    if not isinstance(content, dict):
        raise PgdiffError(
            f"The member 'data' of '{where}' must be a JSON object. Got a {type(content).__name__}."
        )
    return content


def _choose_algorithm(data: dict[str, Any], given: str | None, *, where: str) -> str:
    if given is not None:
        return check_in("algorithm", given, FAMILIES)
    described = data.get("policy_class")
    module = described.get("__module__") if isinstance(described, dict) else None
    names = [name for name, family in FAMILIES.items() if family.module == module]
    if "PPO" in names:  # several algorithms share this policy class
        names = ["PPO"] if "clip_range" in data else ["A2C"]
        names = [] if "cg_max_steps" in data else names  # TRPO
    if not names:
        raise PgdiffError(
            f"'{where}' must be an agent of one of {', '.join(FAMILIES)}. Its policy is of the "
            f"module {_shown(module)}. If its networks equal those of one of them, pass "
            "`algorithm=`; otherwise load it with the library that saved it."
        )
    return names[0]


def _check_extractor(settings: dict[str, Any], *, where: str) -> None:
    extractor = settings.get("features_extractor_class")
    flat = isinstance(extractor, str) and extractor.endswith(".FlattenExtractor'>")
    if extractor is not None and not flat:
        raise PgdiffError(
            f"'{where}' has a custom features extractor ({_shown(extractor)}), whose code is not "
            "run for safety. Load the agent with Stable-Baselines3 and pass the live model."
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
        raise PgdiffError(
            f"`activation` must be a name or a class of torch.nn.Module. Got {given!r}."
        )
    if printed is None:
        return default
    match = re.fullmatch(
        r"<class 'torch\.nn\.modules\.activation\.(\w{1,40})'>",
        printed if isinstance(printed, str) else "",
    )
    if match is None or match[1] not in ACTIVATIONS:
        raise PgdiffError(
            f"'{where}' has the unknown activation {_shown(printed)}. Pass `activation=`, a class "
            f"or {nearest('', ACTIVATIONS)}"
        )
    return ACTIVATIONS[match[1]]


def _shown(value: object) -> str:
    return repr(value[:100]) if isinstance(value, str) else f"a {type(value).__name__}"
