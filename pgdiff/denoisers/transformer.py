"""A transformer over tokens with a noise level for each token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.core.context import Context
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_in, check_positive_int
from pgdiff.denoisers.base import DenoiserSpec
from pgdiff.nn.attention import ATTENTIONS, Attention, sight
from pgdiff.nn.embeddings import add_condition, in_type_of, sinusoids
from pgdiff.nn.kv_cache import KeysValues, KeyValueCache, join
from pgdiff.nn.transformer_block import Block, modulate

Tokens = Float[Tensor, "batch tokens features"]
Levels = Float[Tensor, "#batch tokens"]


@register("denoiser", "transformer")
@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings of a `Transformer`; `build` returns the network for a number of features.

    Attributes:
        width: size of a token inside the network.
        depth: number of blocks.
        heads: attention heads; twice their number must divide the width.
        attention: "full" (every token attends to all tokens), "causal" (token t attends to tokens
            up to t) or "window" (token t attends to the last `window` of them, including itself).
            Information spreads over (window - 1) * depth tokens.
        window: number of tokens that a token attends to; only for "window".
        hide_noise: whether tokens at level 1, pure noise, are hidden from all other tokens. The
            other outputs are then exactly independent of the (finite) values of hidden tokens, also
            with full attention.

    Example:
        >>> import torch
        >>> from pgdiff.denoisers import DenoiserSpec, TransformerConfig
        >>> network = TransformerConfig(width=16, depth=1, heads=2).build(DenoiserSpec(features=3))
        >>> network(torch.zeros(2, 4, 3), torch.zeros(2, 4)).shape
        torch.Size([2, 4, 3])
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
                raise PgdiffError("`window` must be given with attention 'window'. Got None.")
            check_positive_int("window", self.window)
        elif self.window is not None:
            raise PgdiffError(
                f"`window` must be None with the attention '{self.attention}'. Got {self.window}. "
                "Set attention='window' to use it."
            )
        if not isinstance(self.hide_noise, bool):
            raise PgdiffError(f"`hide_noise` must be true or false. Got {self.hide_noise!r}.")

    def build(self, spec: DenoiserSpec) -> "Transformer":
        """Return a new network, whose context may hold vectors."""
        spec.check_vectors("Transformer")
        assert spec.outputs is not None
        return Transformer(
            features=spec.features,
            outputs=spec.outputs,
            condition=spec.vector_size,
            config=self,
        )


class Transformer(nn.Module):
    """A transformer over the tokens of a noisy sequence of any length.

    Args:
        features: size of a token.
        outputs: size of a token's output.
        config: settings of the network.
        condition: size of the condition vector, 0 for none.

    Example:
        >>> from pgdiff.denoisers import Transformer, TransformerConfig
        >>> config = TransformerConfig(width=16, depth=1, heads=2)
        >>> network = Transformer(features=3, outputs=3, config=config)
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
        # adaLN-Zero: at the start the level has no effect and the output is 0.
        for layer in (self.modulation_out, self.token_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tokens,
        level: Levels,
        context: Context | None = None,
        *,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Return the raw output at `x`.

        Args:
            x: noisy tokens, normalised.
            level: noise levels of the tokens in [0, 1]. A batch of 1 applies to all rows and is
                embedded once.
            context: context with a vector, if the network was built with one. A batch of 1 applies
                to all rows.
            cache: cache of the tokens before `x`; None without earlier tokens.

        Raises:
            PgdiffError: the condition is missing, or the network was built without one; the cache
                belongs to another network, or has another number of rows.
        """
        h, c, _ = self._transform(x, level, context, cache)
        return self._output(h, c)

    def forward_and_extend(
        self,
        x: Tokens,
        level: Levels,
        context: Context | None = None,
        *,
        cache: KeyValueCache,
    ) -> tuple[Float[Tensor, "batch tokens outputs"], KeyValueCache]:
        """Return the raw output at `x`, and the cache extended by `x`, without eviction.

        See `forward` for the arguments and errors.
        """
        h, c, layers = self._transform(x, level, context, cache)
        shown = self._shown(level, cache)
        return self._output(h, c), cache.extended(layers, shown=shown, tokens=x.shape[1], keep=None)

    def _output(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation_out(c).chunk(2, dim=-1)
        out: Tensor = self.token_out(modulate(h, shift, scale))
        return out

    @property
    def causal(self) -> bool:
        """True if tokens depend on earlier tokens and themselves alone."""
        return self.config.attention != "full"

    def new_cache(self) -> KeyValueCache:
        """Return a cache without tokens, for `extend`.

        Raises:
            PgdiffError: the attention is full.
        """
        config, like = self.config, self.token_in.weight
        if config.attention == "full":
            raise PgdiffError(
                "A cache needs `attention` 'causal' or 'window'. Got 'full', with which earlier "
                "tokens depend on later ones."
            )
        empty = like.new_zeros(1, config.heads, 0, config.width // config.heads)
        shown = like.new_zeros(1, 0, dtype=torch.bool) if config.hide_noise else None
        return KeyValueCache(config=config, layers=((empty, empty),) * config.depth, shown=shown)

    def extend(
        self,
        cache: KeyValueCache,
        x: Tokens,
        level: Levels,
        context: Context | None = None,
    ) -> KeyValueCache:
        """Return the cache extended by `x`, without the tokens that are out of reach.

        Args:
            cache: cache of the tokens before `x`; it is not changed.
            x: final tokens, normalised.
            level: noise levels of the tokens, 0 if clean.
            context: context; see `forward`.

        Raises:
            PgdiffError: the condition or the cache does not fit; see `forward`.
        """
        _, _, layers = self._transform(x, level, context, cache)
        return cache.extended(
            layers,
            shown=self._shown(level, cache),
            tokens=x.shape[1],
            keep=None if self.config.window is None else self.config.window - 1,
        )

    def _transform(
        self, x: Tensor, level: Tensor, context: Context | None, cache: KeyValueCache | None
    ) -> tuple[Tensor, Tensor, list[KeysValues]]:
        """Return tokens after the last block, embedded levels, and keys and values if cached."""
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
        c = self._embed(level, context)
        layers: list[KeysValues] = []
        for n, block in enumerate(self.blocks):
            if cache is None:
                h, _ = block(h, c, seen)
            else:
                h, keys_values = block(h, c, seen, cache.layers[n])
                layers.append(keys_values)
        return h, c, layers

    def _embed(self, level: Tensor, context: Context | None) -> Tensor:
        """Embed the levels and the vector of the context, `[batch or 1, tokens, width]`."""
        vector = None if context is None else context.vector
        # The factor maps levels in [0, 1] to 1,000 time steps, the unit of the frequencies.
        waves = sinusoids(1000 * level, self.config.width)
        c = self.level_in(in_type_of(self.level_in, waves))
        return F.silu(add_condition(c, vector, self.condition_in))

    def _shown(self, level: Tensor, cache: KeyValueCache | None) -> Tensor | None:
        """Return the keys that other tokens may attend to; None for all."""
        if not self.config.hide_noise:
            return None
        shown = level < 1
        return shown if cache is None or cache.shown is None else join(cache.shown, shown, dim=1)
