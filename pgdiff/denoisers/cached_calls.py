"""A causal network as a function that computes tokens which stay as they are once.

Sampling calls a network again and again. With a pyramid or an autoregressive schedule more and more
leading tokens are clean by then, and a token of a causal network depends on earlier tokens only:
what it gave for the leading tokens that are as they were in the call before, it would give again.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.denoisers.cache import KeyValueCache
from pgdiff.denoisers.transformer import Transformer

Tokens = Float[Tensor, "batch tokens features"]
Levels = Float[Tensor, "#batch tokens"]
ConditionVector = Float[Tensor, "#batch condition"]


@dataclass(frozen=True, eq=False)
class _Call:
    """Inputs and outputs of the last call, and the keys and values of all its tokens."""

    x: Tensor
    level: Tensor
    condition: Tensor | None
    output: Tensor
    cache: KeyValueCache


class CachedCalls:
    """Calls a causal network, and computes only the tokens from the first on that has changed.

    It equals the network up to rounding, whatever it is called with, and with however many tokens:
    those that are not as they were are computed, and with them all later ones. The last call with
    each number of rows is remembered. Where a gradient is to come back to `x`, all is computed.

    Args:
        network: with "causal" or "window" attention.

    Raises:
        PgdiffError: the attention is full.
    """

    def __init__(self, network: Transformer) -> None:
        self._nothing = network.new_cache()
        self.network = network
        self.computed = 0
        """Tokens of a trajectory that were computed, over all calls."""
        self._last: dict[int, _Call] = {}

    def __call__(
        self, x: Tokens, level: Levels, condition: ConditionVector | None = None
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Raw output at `x`; see `Transformer.forward`."""
        if torch.is_grad_enabled() and x.requires_grad:
            self.computed += x.shape[1]
            output: Tensor = self.network(x, level, condition)
            return output
        last, same = self._last.get(len(x)), 0
        if last is not None and _like(last, x, level, condition):
            same = _leading(last, x, level)
        if last is None or not same:
            output, cache = self._compute(x, level, condition, self._nothing)
        elif same == x.shape[1]:
            output, cache = last.output[:, :same], last.cache.until(same)
        else:
            rest, cache = self._compute(
                x[:, same:], level[:, same:], condition, last.cache.until(same)
            )
            output = torch.cat([last.output[:, :same], rest], dim=1)
        cache = cache.until(x.shape[1])
        self._last[len(x)] = _Call(x, level, condition, output.detach(), cache)
        return output

    def _compute(
        self, x: Tensor, level: Tensor, condition: Tensor | None, cache: KeyValueCache
    ) -> tuple[Tensor, KeyValueCache]:
        self.computed += x.shape[1]
        return self.network.forward_and_extend(x, level, condition, cache=cache)


def _like(last: _Call, x: Tensor, level: Tensor, condition: Tensor | None) -> bool:
    """Whether the last call was of like trajectories, under the same condition."""
    if len(last.level) != len(level) or last.x.dtype != x.dtype:
        return False
    if condition is None or last.condition is None:
        return condition is last.condition
    return last.condition.shape == condition.shape and torch.equal(last.condition, condition)


def _leading(last: _Call, x: Tensor, level: Tensor) -> int:
    """Number of leading tokens that are as they were, in all trajectories."""
    both = min(last.x.shape[1], x.shape[1])
    moved = (last.x[:, :both] != x[:, :both]).any(dim=-1).any(dim=0)
    places = (moved | (last.level[:, :both] != level[:, :both]).any(dim=0)).nonzero()
    return int(places[0]) if len(places) else both
