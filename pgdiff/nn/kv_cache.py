"""A cache of the keys and values of final tokens, which later tokens use without recomputation.

Results with the cache equal those of one pass over the whole sequence, up to rounding: a token of
a causal or sliding-window network depends on earlier tokens only, so that its keys and values never
change. This holds after eviction as well. A block needs only the last `window` of its keys; they
were computed before the tokens that they depend on were evicted, so that in block n they depend on
tokens up to n windows back. A pass over the last `window` tokens alone would lack this information.

The cache is valid for the levels and the condition with which its tokens were appended, at
positions counted from the first token that was ever appended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError

Kept = Float[Tensor, "#batch heads _ head"]
KeysValues = tuple[Kept, Kept]


@dataclass(frozen=True, kw_only=True)
class KeyValueCache:
    """Keys and values of earlier tokens; immutable, so that several plans can branch from it.

    Created by `Transformer.new_cache` and `Transformer.extend`. It keeps the autograd graph of
    tokens that were appended with gradients; append under `torch.no_grad()` to avoid this.

    Attributes:
        config: settings of the network of the cache.
        layers: keys and values of every block, `[batch, heads, kept, head]`. A batch of 1 applies
            to all rows.
        shown: `[batch or 1, kept]`, True at kept tokens that other tokens may attend to; all if
            None.
        appended: number of tokens that were ever appended, which is the position of the next token.

    Example:
        >>> import torch
        >>> from pgdiff.denoisers import DenoiserSpec, TransformerConfig
        >>> config = TransformerConfig(width=16, depth=1, heads=2, attention="causal")
        >>> network = config.build(DenoiserSpec(features=3))
        >>> cache = network.extend(network.new_cache(), torch.zeros(1, 2, 3), torch.zeros(1, 2))
        >>> cache.appended, cache.kept
        (2, 2)
    """

    config: object
    layers: tuple[KeysValues, ...]
    shown: Bool[Tensor, "#batch kept"] | None = None
    appended: int = 0

    @property
    def kept(self) -> int:
        """Number of tokens with keys and values, the last ones of those appended."""
        return self.layers[0][0].shape[2]

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.layers[0][0].shape[0]

    def check(self, config: object, *, batch: int) -> None:
        """Raise if the cache does not fit a network's settings and number of rows."""
        if self.config != config:
            raise PgdiffError(
                f"`cache` must come from a network with the settings {config}. Got a cache of "
                f"{self.config}."
            )
        if self.batch not in (1, batch):
            raise PgdiffError(f"`cache` must have 1 row, or {batch} like `x`. Got {self.batch}.")

    def extended(
        self,
        layers: Sequence[KeysValues],
        *,
        shown: Bool[Tensor, "#batch keys"] | None,
        tokens: int,
        keep: int | None,
    ) -> "KeyValueCache":
        """Return a cache of the kept keys and values and `tokens` new ones.

        Args:
            layers: keys and values of every block, kept and new ones.
            shown: True at keys that other tokens may attend to.
            tokens: number of new tokens.
            keep: number of last tokens to keep; all if None.
        """
        drop = 0 if keep is None else max(0, layers[0][0].shape[2] - keep)
        if drop:  # the copy frees the memory of the dropped tokens
            layers = [(k[:, :, drop:].clone(), v[:, :, drop:].clone()) for k, v in layers]
            shown = None if shown is None else shown[:, drop:].clone()
        return replace(self, layers=tuple(layers), shown=shown, appended=self.appended + tokens)

    def until(self, tokens: int) -> "KeyValueCache":
        """Return a cache of the first `tokens` tokens, detached from any graph.

        Raises:
            PgdiffError: fewer tokens were appended, or a token after them was evicted.
        """
        left = self.kept - (self.appended - tokens)
        if tokens > self.appended or left < 0:
            raise PgdiffError(
                f"`tokens` must be from {self.appended - self.kept} to {self.appended}. "
                f"Got {tokens}."
            )
        layers = tuple((k[:, :, :left].detach(), v[:, :, :left].detach()) for k, v in self.layers)
        shown = None if self.shown is None else self.shown[:, :left]
        return replace(self, layers=layers, shown=shown, appended=tokens)


def join(past: Tensor, new: Tensor, *, dim: int) -> Tensor:
    """Return `past` and `new` concatenated; a batch of 1 is expanded."""
    batch = max(len(past), len(new))
    rows = [t.expand(batch, *t.shape[1:]) for t in (past, new)]
    return torch.cat(rows, dim=dim)
