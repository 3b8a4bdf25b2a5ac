"""Calls of a causal network that recompute only changed tokens.

Sampling calls a network many times. With a pyramid or an autoregressive schedule the number of
clean leading tokens grows, and a token of a causal network depends on earlier tokens only. The
outputs of leading tokens that are unchanged since the last call can therefore be reused.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.context import Context
from pgdiff.nn.kv_cache import KeyValueCache

Tokens = Float[Tensor, "batch tokens features"]
Levels = Float[Tensor, "#batch tokens"]


@dataclass(frozen=True, eq=False)
class _Call:
    """The inputs and outputs of the last call, and the keys and values of all its tokens."""

    x: Tensor
    level: Tensor
    context: Context | None
    output: Tensor
    cache: KeyValueCache


@runtime_checkable
class CausalNetwork(Protocol):
    """A network whose tokens depend on earlier tokens and themselves alone, with a cache.

    Example:
        >>> from pgdiff.denoisers import DenoiserSpec, TransformerConfig
        >>> TransformerConfig(attention="causal").build(DenoiserSpec(features=3)).causal
        True
    """

    @property
    def causal(self) -> bool:
        """True."""

    def __call__(self, x: Tokens, level: Levels, context: Context | None = None) -> Tensor:
        """Return the raw output at `x`."""

    def new_cache(self) -> KeyValueCache:
        """Return a cache without tokens."""

    def forward_and_extend(
        self, x: Tokens, level: Levels, context: Context | None = None, *, cache: KeyValueCache
    ) -> tuple[Float[Tensor, "batch tokens outputs"], KeyValueCache]:
        """Return the raw output at `x`, and the cache extended by `x`, without eviction."""


class CachedCalls:
    """A causal network that computes only tokens from the first changed one on.

    It returns the outputs of the network, up to rounding, for any inputs and any number of tokens.
    The last call with each number of rows is remembered. If `x` requires a gradient, all tokens are
    computed.

    Args:
        network: causal network, such as a transformer with "causal" or "window" attention.

    Raises:
        PgdiffError: the network is not causal.

    Example:
        >>> import torch
        >>> from pgdiff.denoisers import CachedCalls, DenoiserSpec, TransformerConfig
        >>> config = TransformerConfig(width=16, depth=1, heads=2, attention="causal")
        >>> network = CachedCalls(config.build(DenoiserSpec(features=3)))
        >>> with torch.no_grad():
        ...     for _ in range(2):
        ...         output = network(torch.zeros(1, 4, 3), torch.zeros(1, 4))
        >>> network.computed
        4
    """

    def __init__(self, network: CausalNetwork) -> None:
        self._empty = network.new_cache()
        self.network = network
        self.computed = 0
        """Number of computed tokens of a trajectory, over all calls."""
        self._last: dict[int, _Call] = {}

    def __call__(
        self, x: Tokens, level: Levels, context: Context | None = None
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Return the raw output at `x`; see `Transformer.forward`."""
        if torch.is_grad_enabled() and x.requires_grad:
            self.computed += x.shape[1]
            output: Tensor = self.network(x, level, context)
            return output
        last, same = self._last.get(len(x)), 0
        if last is not None and _like(last, x, level, context):
            same = _leading(last, x, level)
        if last is None or not same:
            output, cache = self._compute(x, level, context, self._empty)
        elif same == x.shape[1]:
            output, cache = last.output[:, :same], last.cache.until(same)
        else:
            rest, cache = self._compute(
                x[:, same:], level[:, same:], context, last.cache.until(same)
            )
            output = torch.cat([last.output[:, :same], rest], dim=1)
        cache = cache.until(x.shape[1])
        self._last[len(x)] = _Call(x, level, context, output.detach(), cache)
        return output

    def _compute(
        self, x: Tensor, level: Tensor, context: Context | None, cache: KeyValueCache
    ) -> tuple[Tensor, KeyValueCache]:
        self.computed += x.shape[1]
        return self.network.forward_and_extend(x, level, context, cache=cache)


def _like(last: _Call, x: Tensor, level: Tensor, context: Context | None) -> bool:
    """Return whether the last call had inputs of the same kind and an equal context."""
    if len(last.level) != len(level) or last.x.dtype != x.dtype:
        return False
    if context is None or last.context is None:
        return context is last.context
    return last.context.same(context)


def _leading(last: _Call, x: Tensor, level: Tensor) -> int:
    """Return the number of leading tokens that are unchanged in all trajectories."""
    both = min(last.x.shape[1], x.shape[1])
    moved = (last.x[:, :both] != x[:, :both]).any(dim=-1).any(dim=0)
    changed = (moved | (last.level[:, :both] != level[:, :both]).any(dim=0)).nonzero()
    return int(changed[0]) if len(changed) else both
