"""Interfaces that guides require of an actor and a critic, in raw units."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Actor(Protocol):
    """A policy with a differentiable log-density.

    If an actor also has Gymnasium's `observation_space` and `action_space`, their sizes must match
    the model. If it is a `torch.nn.Module`, it is moved to the model's device.

    Example:
        >>> import torch
        >>> class Centered:
        ...     def log_prob(self, observation, action):
        ...         return -action.square().sum(dim=-1)
        >>> isinstance(Centered(), Actor)
        True
    """

    def log_prob(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, "*batch"]:
        """Return the log-density of actions, differentiable in both arguments.

        It must be finite for any finite action, since plans may leave the action space.
        """
        ...


@runtime_checkable
class ActionCritic(Protocol):
    """A differentiable critic of actions; `Actor` describes its optional attributes.

    Example:
        >>> import torch
        >>> class Effort:
        ...     def q(self, observation, action):
        ...         return -action.square().sum(dim=-1)[None]
        >>> isinstance(Effort(), ActionCritic)
        True
    """

    def q(
        self,
        observation: Float[Tensor, "*batch observation"],
        action: Float[Tensor, "*batch action"],
    ) -> Float[Tensor, " heads *batch"]:
        """Return the estimated returns of actions, one per head; differentiable in both."""
        ...
