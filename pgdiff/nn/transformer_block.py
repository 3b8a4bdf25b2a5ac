"""A transformer block that is modulated by the level of every token.

As in DiT (Peebles & Xie 2023), the level scales, shifts and gates the block. The modulation starts
at zero (adaLN-Zero), so that the block starts as the identity.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pgdiff.nn.attention import Sight
from pgdiff.nn.kv_cache import KeysValues, join


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
        self,
        h: Float[Tensor, "batch tokens width"],
        c: Float[Tensor, "#batch tokens width"],
        seen: Sight,
        past: KeysValues | None = None,
    ) -> tuple[Float[Tensor, "batch tokens width"], KeysValues]:
        """Transform tokens `h`, given the embedding `c` of their levels.

        Args:
            h: tokens.
            c: embedding of the tokens' levels.
            seen: attention mask.
            past: keys and values of earlier tokens.

        Returns:
            The tokens, and all keys and values, including those of earlier tokens.
        """
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(c).chunk(6, dim=-1)
        q, k, v = rearrange(
            self.qkv(modulate(h, shift_a, scale_a)), "b t (n h d) -> n b h t d", n=3, h=self.heads
        )
        if past is not None:
            k, v = join(past[0], k, dim=2), join(past[1], v, dim=2)
        attended = rearrange(seen.attend(q, k, v), "b h t d -> b t (h d)")
        h = h + gate_a * self.attention_out(attended)
        out: Tensor = h + gate_f * self.feedforward(modulate(h, shift_f, scale_f))
        return out, (k, v)


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply layer norm without parameters, then the level's scale and shift."""
    return F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift
