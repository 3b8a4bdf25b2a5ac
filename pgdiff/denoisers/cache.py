"""Keys and values of tokens that are final, so that later tokens need not compute them again.

What one pass over the whole sequence would give is what the cache gives, up to rounding: a token
of a causal or sliding-window network depends on earlier tokens only, so its keys and values never
change once they are there. This holds after eviction as well. A block needs the last `window`
keys of its own and no others; those were computed when the tokens that they depend on were still
kept, so in block n they carry what was told over n windows. A pass over the last `window` tokens
alone is another thing: it has not heard from the tokens before them.

It holds for tokens at the level, and with the condition, that they were appended with, at places
counted from the first token that was ever appended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.validation import PgdiffError

Kept = Float[Tensor, "#batch heads _ head"]
KeysValues = tuple[Kept, Kept]


@dataclass(frozen=True, kw_only=True)
class KeyValueCache:
    """Keys and values of the tokens before; it is never changed, so that plans may branch from it.

    Made by `Transformer.new_cache` and `Transformer.extend`. It holds the graph of what was
    appended with gradients: append under `torch.no_grad()` where none are wanted.

    Attributes:
        config: settings of the network that it is for.
        layers: keys and values of every block, `[batch, heads, kept, head]`. A batch of 1 stands
            for all rows alike.
        shown: which of the kept tokens may be seen, `[batch or 1, kept]`; None if all of them.
        appended: number of tokens that were ever appended, which is the place of the next one.
    """

    config: object
    layers: tuple[KeysValues, ...]
    shown: Bool[Tensor, "#batch kept"] | None = None
    appended: int = 0

    @property
    def kept(self) -> int:
        """Number of tokens whose keys and values are there: the last of those appended."""
        return self.layers[0][0].shape[2]

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.layers[0][0].shape[0]

    def check(self, config: object, *, batch: int) -> None:
        """Check that the cache fits a network of these settings, and so many rows.

        Raises:
            PgdiffError: it does not.
        """
        if self.config != config:
            raise PgdiffError(
                f"`cache` must be of a network with the settings {config}. Got one of "
                f"{self.config}."
            )
        if self.batch not in (1, batch):
            raise PgdiffError(f"`cache` must have 1 row, or {batch} as `x` has. Got {self.batch}.")

    def extended(
        self,
        layers: Sequence[KeysValues],
        *,
        shown: Bool[Tensor, "#batch keys"] | None,
        tokens: int,
        keep: int | None,
    ) -> "KeyValueCache":
        """Return a cache of these keys and values, which are the kept ones and `tokens` more.

        Args:
            layers: keys and values of every block.
            shown: which of them may be seen.
            tokens: how many of them are new.
            keep: how many of the last ones to keep; all if None.
        """
        drop = 0 if keep is None else max(0, layers[0][0].shape[2] - keep)
        if drop:  # copied, lest the dropped ones stay in memory
            layers = [(k[:, :, drop:].clone(), v[:, :, drop:].clone()) for k, v in layers]
            shown = None if shown is None else shown[:, drop:].clone()
        return replace(self, layers=tuple(layers), shown=shown, appended=self.appended + tokens)

    def until(self, tokens: int) -> "KeyValueCache":
        """Return a cache of the first `tokens` tokens alone, cut off from any graph.

        Raises:
            PgdiffError: there are not so many, or one that is dropped was evicted before.
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
    """Put `new` after `past`; where one of them has a batch of 1, that row stands for all."""
    batch = max(len(past), len(new))
    rows = [t.expand(batch, *t.shape[1:]) for t in (past, new)]
    return torch.cat(rows, dim=dim)
