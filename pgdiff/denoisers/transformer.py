"""A transformer over tokens, each with a noise level of its own.

Blocks are those of DiT (Peebles & Xie 2023): the level scales, shifts and gates every block, and
starts as zero (adaLN-Zero), so that each block begins as the identity.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_positive_int


@register("denoiser", "transformer")
@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size of a `Transformer`; `build` makes the network for a number of features.

    Attributes:
        width: size of a token inside the network.
        depth: number of blocks.
        heads: attention heads; must divide the width.
    """

    width: int = 128
    depth: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        check_positive_int("width", self.width)
        check_positive_int("depth", self.depth)
        check_positive_int("heads", self.heads)
        if self.width % (2 * self.heads):
            raise PgdiffError(
                f"`width` must be a multiple of twice the {self.heads} heads. Got {self.width}."
            )

    def build(self, *, features: int, outputs: int | None = None) -> "Transformer":
        """Make a network for tokens of `features` features, giving `outputs` (default: as many)."""
        count = features if outputs is None else outputs
        return Transformer(features=features, outputs=count, config=self)


class Transformer(nn.Module):
    """Raw output for every token of a noisy sequence; any number of tokens.

    Args:
        features: size of a token.
        outputs: size of a token's output.
        config: size of the network.
    """

    def __init__(self, *, features: int, outputs: int, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.width = width
        self.token_in = nn.Linear(features, width)
        self.level_in = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(
            Block(width=width, heads=config.heads) for _ in range(config.depth)
        )
        self.modulation_out = nn.Linear(width, 2 * width)
        self.token_out = nn.Linear(width, outputs)
        # adaLN-Zero: at the start the level changes nothing and the output is 0.
        for layer in (self.modulation_out, self.token_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Float[Tensor, "batch tokens features"],
        level: Float[Tensor, "#batch tokens"],
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Raw output at `x`.

        Args:
            x: noisy tokens, normalised.
            level: their noise levels in [0, 1]. A batch of 1 stands for all rows alike, and is
                embedded once.
        """
        position = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        h = self.token_in(x) + sinusoids(position, self.width)
        # The factor spreads levels in [0, 1] over the frequencies made for 1,000 time steps.
        c = self.level_in(sinusoids(1000 * level, self.width))
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation_out(c).chunk(2, dim=-1)
        out: Tensor = self.token_out(modulate(h, shift, scale))
        return out


class Block(nn.Module):
    """Attention and a two-layer network, both scaled, shifted and gated by the level.

    Args:
        width: size of a token.
        heads: attention heads.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, h: Float[Tensor, "batch tokens width"], c: Float[Tensor, "#batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Transform tokens `h`, given the embedding `c` of their levels."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(c).chunk(6, dim=-1)
        q, k, v = rearrange(
            self.qkv(modulate(h, shift_a, scale_a)), "b t (n h d) -> n b h t d", n=3, h=self.heads
        )
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "b h t d -> b t (h d)")
        h = h + gate_a * self.attention_out(attended)
        out: Tensor = h + gate_f * self.feedforward(modulate(h, shift_f, scale_f))
        return out


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without parameters of its own, then the level's scale and shift."""
    return F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift


def sinusoids(
    position: Float[Tensor, "*shape"], width: int, *, longest: float = 10_000.0
) -> Float[Tensor, "*shape width"]:
    """Sines and cosines of `position` (Vaswani et al. 2017, section 3.5), `width` in all."""
    half = width // 2
    rate = torch.exp(
        -math.log(longest) / half * torch.arange(half, device=position.device, dtype=position.dtype)
    )
    angle = position[..., None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
