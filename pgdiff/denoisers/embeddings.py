"""Embeddings of noise levels, positions and conditions, which the denoisers share."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.validation import PgdiffError, check_positive_int


def sinusoids(
    position: Float[Tensor, "*shape"], width: int, *, longest: float = 10_000.0, shift: int = 0
) -> Float[Tensor, "*shape width"]:
    """Sines and cosines of `position` (Vaswani et al. 2017, section 3.5), `width` in all.

    Args:
        position: any numbers.
        width: size of the embedding; even.
        longest: the slowest wave has about this many units of `position` to the radian.
        shift: 0 lets the rates stop one short of 1/longest, as Vaswani et al. do; 1 lets the last
            be 1/longest, as Ho et al. (2020) do in their code. With 1 the width is at least 4.
    """
    half = width // 2
    rate = torch.exp(
        -math.log(longest)
        / (half - shift)
        * torch.arange(half, device=position.device, dtype=position.dtype)
    )
    angle = position[..., None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def in_type_of(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return `x` in the type of the layers' weights.

    Levels and positions come in float32 or more, whatever the weights are: bfloat16 has too few
    digits to tell neighbouring levels, or places beyond 256, apart.
    """
    return x.to(next(layers.parameters()).dtype)


class LevelEmbedding(nn.Module):
    """Embedding of every token's noise level, plus that of a condition where there is one.

    Sinusoids of the scaled level, then two layers; a condition goes through two layers of its own
    and is added to the embedding of every token.

    Args:
        width: size of the embedding; even and at least 4.
        hidden: width of the hidden layers.
        activation: nonlinearity of the hidden layers.
        scale: factor from levels in [0, 1] to the time steps that the frequencies are made for.
        condition: size of the condition; 0 for none.
    """

    def __init__(
        self, *, width: int, hidden: int, activation: type[nn.Module], scale: float, condition: int
    ) -> None:
        super().__init__()
        check_positive_int("condition", condition, minimum=0)
        self.width = width
        self.scale = scale
        self.level_in = nn.Sequential(
            nn.Linear(width, hidden), activation(), nn.Linear(hidden, width)
        )
        self.condition_in: nn.Sequential | None = None
        if condition > 0:
            self.condition_in = nn.Sequential(
                nn.Linear(condition, hidden), activation(), nn.Linear(hidden, width)
            )

    def forward(
        self,
        level: Float[Tensor, "#batch tokens"],
        condition: Float[Tensor, "#batch condition"] | None = None,
    ) -> Float[Tensor, "#batch tokens width"]:
        """Embed levels in [0, 1] and the condition, if the network has one.

        Raises:
            PgdiffError: a condition is missing, or given to a network without one.
        """
        waves = sinusoids(self.scale * level, self.width, shift=1)
        embedding: Tensor = self.level_in(in_type_of(self.level_in, waves))
        return add_condition(embedding, condition, self.condition_in)


def add_condition(
    embedding: Float[Tensor, "#batch tokens width"],
    condition: Float[Tensor, "#batch condition"] | None,
    layers: nn.Sequential | None,
) -> Float[Tensor, "#batch tokens width"]:
    """Add the embedded condition to that of every token's level.

    Args:
        embedding: of the levels.
        condition: vector for each row; None where the network has no layers for one.
        layers: what embeds the condition, a linear layer first; None in a network without one.

    Raises:
        PgdiffError: a condition is missing, has another size, or is given to a network without one.
    """
    if layers is None:
        if condition is not None:
            raise PgdiffError("`condition` must be None: the network was built without one.")
        return embedding
    if condition is None:
        raise PgdiffError("`condition` must be given: the network was built with one.")
    first = layers[0]
    assert isinstance(first, nn.Linear)
    if condition.ndim != 2 or condition.shape[1] != first.in_features:
        raise PgdiffError(
            f"`condition` must have shape [batch, {first.in_features}]. "
            f"Got {list(condition.shape)}."
        )
    added: Tensor = layers(condition)
    return embedding + added[:, None]
