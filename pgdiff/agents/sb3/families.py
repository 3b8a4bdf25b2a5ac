"""Supported policy classes of Stable-Baselines3 and sb3-contrib, and how to rebuild them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from pgdiff.agents.densities import Deterministic, Diagonal, Law, Squashed
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.serialization import load_weights
from pgdiff.core.validation import PgdiffError, check_range, require

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """Policies of one class.

    Args:
        module: module that defines the policy class.
        policy: name of the class.
        law: its action distribution.
        actor: prefixes of the actor's weights, in order, ending with the output layer.
        critic: prefixes of the critic's weights, or of each of several critics ("critic.qf").
        critic_key: key of the critic's layers in `net_arch`.
        activation: Stable-Baselines3's default.
        options: function of the weights, the critics' layer sizes and the file's `policy_kwargs`
            that returns the remaining arguments of the constructor.
    """

    module: str
    policy: str
    law: Law
    actor: tuple[str, ...]
    critic: tuple[str, ...]
    critic_key: str
    activation: type[nn.Module]
    options: Callable[[Mapping[str, Tensor], list[list[int]], Settings], dict[str, Any]]


def _several_critics(
    weights: Mapping[str, Tensor], critics: list[list[int]], settings: Settings
) -> dict[str, Any]:
    return {"n_critics": len(critics)}


def _squashed(
    weights: Mapping[str, Tensor], critics: list[list[int]], settings: Settings
) -> dict[str, Any]:
    options: dict[str, Any] = {"n_critics": len(critics)}
    if "actor.log_std" in weights:  # a parameter: gSDE's
        clip = check_range("clip_mean", settings.get("clip_mean", 2.0), low=0.0)
        clipped = "actor.mu.0.weight" in weights  # then the mean is followed by Hardtanh
        options |= {"use_sde": True, "clip_mean": clip if clipped else 0.0}
        options["use_expln"] = settings.get("use_expln") is True
    return options


def _quantile(
    weights: Mapping[str, Tensor], critics: list[list[int]], settings: Settings
) -> dict[str, Any]:
    return _squashed(weights, critics, settings) | {"n_quantiles": critics[0][-1]}


def _actor_critic(
    weights: Mapping[str, Tensor], critics: list[list[int]], settings: Settings
) -> dict[str, Any]:
    log_std = weights.get("log_std")
    if log_std is None or log_std.ndim < 2:
        return {}
    flags = {key: settings.get(key) is True for key in ("squash_output", "use_expln")}
    return {"use_sde": True, "full_std": log_std.shape[1] > 1, **flags}


_TWIN = ("actor.latent_pi", "actor.mu"), ("critic.qf",), "qf", nn.ReLU
_SAC = Family("stable_baselines3.sac.policies", "SACPolicy", Squashed(), *_TWIN, _squashed)
_TQC = Family("sb3_contrib.tqc.policies", "TQCPolicy", Squashed(), *_TWIN, _quantile)
_TD3 = Family(
    "stable_baselines3.td3.policies",
    "TD3Policy",
    Deterministic(),
    ("actor.mu",),
    ("critic.qf",),
    "qf",
    nn.ReLU,
    _several_critics,
)
_ACTOR_CRITIC = Family(
    "stable_baselines3.common.policies",
    "ActorCriticPolicy",
    Diagonal(),
    ("mlp_extractor.policy_net", "action_net"),
    ("mlp_extractor.value_net", "value_net"),
    "vf",
    nn.Tanh,
    _actor_critic,
)

FAMILIES = {
    "SAC": _SAC,
    "TD3": _TD3,
    "DDPG": _TD3,
    "TQC": _TQC,
    "PPO": _ACTOR_CRITIC,
    "A2C": _ACTOR_CRITIC,
}
"""Families by the name of the algorithm in Stable-Baselines3 and sb3-contrib."""


def family_of(policy: object) -> Family | None:
    """Return the family of a policy object; None if it is unsupported, such as a recurrent one."""
    classes = [(cls.__module__, cls.__name__) for cls in type(policy).__mro__]
    if any("Recurrent" in name for _, name in classes):
        return None
    for family in (_SAC, _TQC, _TD3, _ACTOR_CRITIC):
        if (family.module, family.policy) in classes:
            return family
    return None


def build_policy(
    family: Family,
    weights: Mapping[str, Tensor],
    *,
    observation_space: Box,
    action_space: Box,
    activation: type[nn.Module],
    settings: Settings,
    where: str,
) -> Any:
    """Return Stable-Baselines3's policy with these weights.

    Args:
        family: family of the policy.
        weights: tensors by name.
        observation_space: space with the number of features that `read_sizes` returns.
        action_space: space with the number of features that `read_sizes` returns.
        activation: activation between the layers.
        settings: plain values of the file's `policy_kwargs`.
        where: name of the file, for errors.

    Raises:
        PgdiffError: weights are missing, unexpected or of wrong shapes.
    """
    actor, critics = _read_layers(family, weights, where=where)
    policy_class = getattr(require(family.module, extra="sb3"), family.policy)
    with seeded_torch(seed=0), torch.device("cpu"):  # initial weights, overwritten at once
        policy = policy_class(
            observation_space,
            action_space,
            lambda _: 0.0,  # the learning rate
            net_arch={"pi": actor[1:-1], family.critic_key: critics[0][1:-1]},
            activation_fn=activation,
            **family.options(weights, critics, settings),
        )
    try:
        load_weights(policy, weights)
    except PgdiffError as error:
        raise PgdiffError(f"'{where}' cannot be loaded. {error}") from error
    policy.set_training_mode(False)
    return policy.requires_grad_(False)


def read_sizes(family: Family, weights: Mapping[str, Tensor], *, where: str) -> tuple[int, int]:
    """Return the numbers of features of observations and of actions.

    Raises:
        PgdiffError: the weights are of another family, or the sizes of layers do not match.
    """
    actor, _ = _read_layers(family, weights, where=where)
    return actor[0], actor[-1]


def _read_layers(
    family: Family, weights: Mapping[str, Tensor], *, where: str
) -> tuple[list[int], list[list[int]]]:
    """Return the layer sizes of the actor and of each critic, input sizes first.

    Sizes are checked before a network is allocated: small layers that do not match could otherwise
    imply a huge one between them.
    """
    if extractor := next((name for name in weights if "features_extractor." in name), None):
        raise PgdiffError(
            f"'{where}' has a custom features extractor ('{extractor}'), whose code is not run for "
            "safety. Load the agent with Stable-Baselines3 and pass the live model."
        )
    actor = _read_chain(weights, family.actor, where=where)
    if family.critic != ("critic.qf",):
        return actor, [_read_chain(weights, family.critic, inputs=actor[0], where=where)]
    count = len({name.split(".")[1] for name in weights if name.startswith("critic.qf")})
    inputs = actor[0] + actor[-1]
    critics = [
        _read_chain(weights, (f"critic.qf{index}",), inputs=inputs, where=where)
        for index in range(max(count, 1))
    ]
    if other := next((i for i, layers in enumerate(critics) if layers != critics[0]), None):
        raise PgdiffError(
            f"The critics of '{where}' must have the same layers. 'critic.qf{other}' has "
            f"{critics[other]}, 'critic.qf0' {critics[0]}."
        )
    return actor, critics


def _read_chain(
    weights: Mapping[str, Tensor],
    prefixes: tuple[str, ...],
    *,
    inputs: int | None = None,
    where: str,
) -> list[int]:
    sizes: list[int] = [] if inputs is None else [inputs]
    for prefix in prefixes:
        pattern = re.compile(rf"{re.escape(prefix)}(?:\.(\d{{1,4}}))?\.weight")
        matches = [(match, name) for name in weights if (match := pattern.fullmatch(name))]
        # One-dimensional weights belong to an activation (PReLU).
        layers = sorted((int(m[1] or 0), name) for m, name in matches if weights[name].ndim > 1)
        for _, name in layers:
            shape = tuple(weights[name].shape)
            if len(shape) != 2 or (sizes and shape[1] != sizes[-1]):
                expected = f"({shape[0]}, {sizes[-1]})" if sizes else "(outputs, inputs)"
                raise PgdiffError(
                    f"The weight '{name}' of '{where}' must have shape {expected}. Got {shape}."
                )
            sizes = [*(sizes or [shape[1]]), shape[0]]
    if len(sizes) < 2:
        raise PgdiffError(
            f"'{where}' has no weights '{prefixes[-1]}…'. It is of another algorithm, or has a "
            "custom policy. Pass `algorithm=`, or the live model."
        )
    return sizes
