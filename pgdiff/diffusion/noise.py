"""Noise from explicit generators: nothing draws from a global random state."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.validation import PgdiffError, check_each


def share_of(batch: int, generators: Sequence[torch.Generator]) -> int:
    """How many trajectories of the batch each generator draws.

    Raises:
        PgdiffError: there is no generator, or their number does not divide the batch.
    """
    check_each("generators", generators, torch.Generator)
    if not generators or batch % len(generators):
        raise PgdiffError(
            f"The number of generators must divide the batch of {batch}. Got {len(generators)}."
        )
    return batch // len(generators)


def draw(
    shape: tuple[int, int, int],
    *,
    generators: Sequence[torch.Generator],
    dtype: torch.dtype,
    device: torch.device,
    needed: Sequence[bool] | None = None,
) -> Float[Tensor, "batch tokens features"]:
    """Standard normal noise; each generator draws an equal share of the batch, in order.

    One generator for each environment makes an environment's plan independent of which others are
    planned beside it. Noise is drawn on a generator's own device and then moved.

    Args:
        shape: batch, tokens, features.
        generators: at least one; their number must divide the batch.
        dtype: of the result.
        device: of the result.
        needed: for each generator, whether its share is needed; if not it is 0 and the generator is
            left as it is, as if its environment were planned alone. All are if None.
    """
    share = (share_of(shape[0], generators), *shape[1:])
    parts = [
        torch.randn(share, generator=source, dtype=dtype, device=source.device).to(device)
        if used
        else torch.zeros(share, dtype=dtype, device=device)
        for source, used in zip(generators, needed or [True] * len(generators), strict=True)
    ]
    return torch.cat(parts)
