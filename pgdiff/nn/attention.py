"""Attention masks and masked attention between tokens."""

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
    """The attention mask of one call, shared by all blocks.

    Attributes:
        allowed: True where a token attends to a key; None if `causal` describes the mask.
        causal: if True, token t attends to keys up to t, without an explicit mask (the numbers of
            keys and tokens are equal); if False and without a mask, tokens attend to every key.
    """

    allowed: Bool[Tensor, "#batch 1 tokens keys"] | None = None
    causal: bool = False

    def attend(self, q: Heads, k: Keys, v: Keys) -> Heads:
        """Return masked scaled dot-product attention (Vaswani et al. 2017, equation 1)."""
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
    """Return the attention mask of new tokens over `past` earlier keys and the new tokens' keys.

    Args:
        attention: "full" (all keys), "causal" (no later keys) or "window".
        tokens: number of new tokens.
        past: number of keys before the new tokens, in order and without gaps.
        window: number of keys that a token attends to with "window", the last of them its own.
        shown: True at keys among the `past + tokens` that other tokens may attend to; all if None.
            A hidden token still attends to itself.
        device: device of the mask.
    """
    keys = past + tokens
    later = attention != "full" and tokens > 1  # a single token is the last: all keys are earlier
    distant = window is not None and keys > window
    if shown is None and not distant and not (later and past):
        return Sight(causal=later)
    key = torch.arange(keys, device=device)
    age = key[past:, None] - key  # of a key relative to a token: 0 is the token itself
    allowed = torch.ones_like(age, dtype=torch.bool)
    if later:
        allowed = age >= 0
    if window is not None:
        allowed = allowed & (age < window)
    allowed = allowed[None, None]
    if shown is not None:
        allowed = allowed & (shown[:, None, None, :] | (age == 0))
    return Sight(allowed=allowed)
