"""Noise from explicit generators: nothing draws from a global random state."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.validation import PgdiffError


def draw(
    shape: tuple[int, int, int],
    *,
    generators: Sequence[torch.Generator],
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "batch tokens features"]:
    """Standard normal noise; each generator draws an equal share of the batch, in order.

    One generator for each environment makes an environment's plan independent of which others are
    planned beside it. Noise is drawn on a generator's own device and then moved.

    Args:
        shape: batch, tokens, features.
        generators: at least one; their number must divide the batch.
        dtype: of the result.
        device: of the result.
    """
    batch, *rest = shape
    if not generators or batch % len(generators):
        raise PgdiffError(
            f"The number of generators must divide the batch of {batch}. Got {len(generators)}."
        )
    share = (batch // len(generators), *rest)
    parts = [torch.randn(share, generator=g, dtype=dtype, device=g.device) for g in generators]
    return torch.cat([part.to(device) for part in parts])
