"""A transformer over tokens, each with a noise level of its own."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.denoisers.attention import ATTENTIONS, Attention, sight
from pgdiff.denoisers.cache import KeysValues, KeyValueCache, join
from pgdiff.denoisers.embeddings import add_condition, in_type_of, sinusoids
from pgdiff.denoisers.transformer_block import Block, modulate
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_in, check_positive_int

Tokens = Float[Tensor, "batch tokens features"]
Levels = Float[Tensor, "#batch tokens"]
ConditionVector = Float[Tensor, "#batch condition"]


@register("denoiser", "transformer")
@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings of a `Transformer`; `build` makes the network for a number of features.

    Attributes:
        width: size of a token inside the network.
        depth: number of blocks.
        heads: attention heads; must divide the width.
        attention: "full" (every token sees every token), "causal" (token t sees tokens up to t) or
            "window" (of those, the last `window`, itself included). What a token tells reaches
            (window - 1) * depth tokens on.
        window: tokens that a token sees; for "window" alone.
        hide_noise: whether tokens at level 1, pure noise, are hidden from all others, each still
            seeing itself. The outputs at other tokens are then the same bits whatever (finite)
            values the hidden ones hold, even with full attention.
    """

    width: int = 128
    depth: int = 3
    heads: int = 4
    attention: Attention = "full"
    window: int | None = None
    hide_noise: bool = False

    def __post_init__(self) -> None:
        check_positive_int("width", self.width)
        check_positive_int("depth", self.depth)
        check_positive_int("heads", self.heads)
        if self.width % (2 * self.heads):
            raise PgdiffError(
                f"`width` must be a multiple of twice the {self.heads} heads. Got {self.width}."
            )
        check_in("attention", self.attention, ATTENTIONS)
        if self.attention == "window":
            if self.window is None:
                raise PgdiffError("`window` must be given with the attention 'window'. Got None.")
            check_positive_int("window", self.window)
        elif self.window is not None:
            raise PgdiffError(
                f"`window` must be None with the attention '{self.attention}'; only 'window' has "
                f"one. Got {self.window}."
            )
        if not isinstance(self.hide_noise, bool):
            raise PgdiffError(f"`hide_noise` must be true or false. Got {self.hide_noise!r}.")

    def build(
        self, *, features: int, outputs: int | None = None, condition: int = 0
    ) -> "Transformer":
        """Make a network for tokens of `features` features.

        Args:
            features: size of a token.
            outputs: size of a token's output; as `features` if None.
            condition: size of the condition vector; 0 for a network without one.
        """
        count = features if outputs is None else outputs
        return Transformer(features=features, outputs=count, config=self, condition=condition)


class Transformer(nn.Module):
    """Raw output for every token of a noisy sequence; any number of tokens.

    Args:
        features: size of a token.
        outputs: size of a token's output.
        config: settings of the network.
        condition: size of the condition vector, 0 for none.
    """

    def __init__(
        self, *, features: int, outputs: int, config: TransformerConfig, condition: int = 0
    ) -> None:
        super().__init__()
        check_positive_int("condition", condition, minimum=0)
        width = config.width
        self.config = config
        self.token_in = nn.Linear(features, width)
        self.level_in = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            Block(width=width, heads=config.heads) for _ in range(config.depth)
        )
        self.modulation_out = nn.Linear(width, 2 * width)
        self.token_out = nn.Linear(width, outputs)
        self.condition_in: nn.Sequential | None = None
        if condition:
            self.condition_in = nn.Sequential(
                nn.Linear(condition, width), nn.SiLU(), nn.Linear(width, width)
            )
        # adaLN-Zero: at the start the level changes nothing and the output is 0.
        for layer in (self.modulation_out, self.token_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tokens,
        level: Levels,
        condition: ConditionVector | None = None,
        *,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Raw output at `x`.

        Args:
            x: noisy tokens, normalised.
            level: their noise levels in [0, 1]. A batch of 1 stands for all rows alike, and is
                embedded once.
            condition: vector that the network is conditioned on, if it was built for one. A batch
                of 1 stands for all rows alike.
            cache: the tokens before `x`, which are not changed; None if there are none.

        Raises:
            PgdiffError: a condition that the network was not built for, or none where it was; a
                cache of another network, or of another number of rows.
        """
        h, c, _ = self._transform(x, level, condition, cache)
        return self._output(h, c)

    def forward_and_extend(
        self,
        x: Tokens,
        level: Levels,
        condition: ConditionVector | None = None,
        *,
        cache: KeyValueCache,
    ) -> tuple[Float[Tensor, "batch tokens outputs"], KeyValueCache]:
        """Raw output at `x`, and a cache that holds `x` as well and drops nothing.

        Args and errors as in a call.
        """
        h, c, layers = self._transform(x, level, condition, cache)
        shown = self._shown(level, cache)
        return self._output(h, c), cache.extended(layers, shown=shown, tokens=x.shape[1], keep=None)

    def _output(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation_out(c).chunk(2, dim=-1)
        out: Tensor = self.token_out(modulate(h, shift, scale))
        return out

    def new_cache(self) -> KeyValueCache:
        """Return a cache without tokens, for `extend`.

        Raises:
            PgdiffError: the attention is full.
        """
        config, like = self.config, self.token_in.weight
        if config.attention == "full":
            raise PgdiffError(
                "A cache needs `attention` 'causal' or 'window'. Got 'full', where earlier tokens "
                "see later ones, so that no keys and values are final."
            )
        nothing = like.new_zeros(1, config.heads, 0, config.width // config.heads)
        shown = like.new_zeros(1, 0, dtype=torch.bool) if config.hide_noise else None
        return KeyValueCache(
            config=config, layers=((nothing, nothing),) * config.depth, shown=shown
        )

    def extend(
        self,
        cache: KeyValueCache,
        x: Tokens,
        level: Levels,
        condition: ConditionVector | None = None,
    ) -> KeyValueCache:
        """Return a cache that holds `x` as well, and of all the tokens only those still needed.

        Args:
            cache: of the tokens before `x`; it stays as it is.
            x: tokens that are final, normalised.
            level: their noise levels, 0 where they are clean.
            condition: as in a call.

        Raises:
            PgdiffError: as in a call.
        """
        _, _, layers = self._transform(x, level, condition, cache)
        return cache.extended(
            layers,
            shown=self._shown(level, cache),
            tokens=x.shape[1],
            keep=None if self.config.window is None else self.config.window - 1,
        )

    def _transform(
        self, x: Tensor, level: Tensor, condition: Tensor | None, cache: KeyValueCache | None
    ) -> tuple[Tensor, Tensor, list[KeysValues]]:
        """Tokens after the last block, embedding of their levels, and keys and values if cached."""
        config = self.config
        first, past = 0, 0
        if cache is not None:
            cache.check(config, batch=len(x))
            first, past = cache.appended, cache.kept
        seen = sight(
            config.attention,
            tokens=x.shape[1],
            past=past,
            window=config.window,
            shown=self._shown(level, cache),
            device=x.device,
        )
        exact = torch.promote_types(x.dtype, torch.float32)
        position = torch.arange(first, first + x.shape[1], device=x.device, dtype=exact)
        h = self.token_in(x) + sinusoids(position, config.width).to(x.dtype)
        c = self._embed(level, condition)
        layers: list[KeysValues] = []
        for n, block in enumerate(self.blocks):
            if cache is None:
                h, _ = block(h, c, seen)
            else:
                h, keys_values = block(h, c, seen, cache.layers[n])
                layers.append(keys_values)
        return h, c, layers

    def _embed(self, level: Tensor, condition: Tensor | None) -> Tensor:
        """Embed levels, and the condition with them, `[batch or 1, tokens, width]`."""
        # The factor spreads levels in [0, 1] over the frequencies made for 1,000 time steps.
        waves = sinusoids(1000 * level, self.config.width)
        c = self.level_in(in_type_of(self.level_in, waves))
        return F.silu(add_condition(c, condition, self.condition_in))

    def _shown(self, level: Tensor, cache: KeyValueCache | None) -> Tensor | None:
        """Which keys other tokens may see; None if all."""
        if not self.config.hide_noise:
            return None
        shown = level < 1
        return shown if cache is None or cache.shown is None else join(cache.shown, shown, dim=1)
