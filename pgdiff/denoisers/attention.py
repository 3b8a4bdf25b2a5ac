"""Which tokens a token sees."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

Attention = Literal["full", "causal", "window"]
ATTENTIONS: tuple[Attention, ...] = ("full", "causal", "window")

Heads = Float[Tensor, "batch heads tokens head"]
Keys = Float[Tensor, "batch heads keys head"]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Which keys each token sees, made once per call and shared by all blocks.

    Attributes:
        allowed: True where a token sees a key; None where it sees every key, or as `causal` says.
        causal: token t sees keys up to t, without a mask that says so (as many keys as tokens).
    """

    allowed: Bool[Tensor, "#batch 1 tokens keys"] | None = None
    causal: bool = False

    def attend(self, q: Heads, k: Keys, v: Keys) -> Heads:
        """Scaled dot-product attention (Vaswani et al. 2017, equation 1) to what is seen."""
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.allowed, is_causal=self.causal
        )


def sight(
    attention: Attention,
    *,
    tokens: int,
    past: int = 0,
    window: int | None = None,
    shown: Bool[Tensor, "#batch keys"] | None = None,
    device: torch.device | None = None,
) -> Sight:
    """What `tokens` new tokens see of `past` earlier keys and of themselves, in that order.

    Args:
        attention: "full" (everything), "causal" (nothing later) or "window".
        tokens: number of new tokens.
        past: number of keys before them, in order and without gaps.
        window: how many tokens a token sees with "window", the last of them itself.
        shown: which of the `past + tokens` keys may be seen; all if None. A token that is not shown
            still sees itself.
        device: of the mask.
    """
    keys = past + tokens
    later = attention != "full" and tokens > 1  # a single token is the last, and sees all keys
    distant = window is not None and keys > window
    if shown is None and not distant and not (later and past):
        return Sight(causal=later)
    key = torch.arange(keys, device=device)
    age = key[past:, None] - key  # of a key, seen from a token: 0 is the token itself
    allowed = torch.ones_like(age, dtype=torch.bool)
    if later:
        allowed = age >= 0
    if window is not None:
        allowed = allowed & (age < window)
    allowed = allowed[None, None]
    if shown is not None:
        allowed = allowed & (shown[:, None, None, :] | (age == 0))
    return Sight(allowed=allowed)
