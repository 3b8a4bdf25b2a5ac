"""A value of goals as a distance: states are laid out so that far apart means long to get there."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.denoisers.mlp import mlp
from pgdiff.validation import check_positive_int

UNIT = 0.3
"""Of the distance, in logarithms of the value: new networks then begin with values like 0.5."""

SMALL = 1e-6
"""Added to the square: a distance has no gradient at 0."""


class LatentDistance(nn.Module):
    """`log V = -|phi(s) - phi(g)|`, with one embedding `phi` of state and goal.

    Park, Kreiman and Levine (2024), "Foundation policies with Hilbert representations", eq. 4. A
    network of (s, g) must learn every wall anew for every goal; an embedding learns once how far
    one has to go round it, since a distance between embeddings obeys the triangle inequality. It is
    symmetric: it takes the way there to be as long as the way back.

    Args:
        features: of a state, and of a goal.
        latent: dimensions of the embedding.
        width: of the network.
        depth: its hidden layers.
    """

    def __init__(self, *, features: int, latent: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = mlp(
            features, check_positive_int("latent", latent), width=width, depth=depth
        )

    def forward(
        self, state: Float[Tensor, "*batch features"], goal: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*batch"]:
        """Logarithm of the value."""
        apart = self.embedding(state) - self.embedding(goal)
        distance: Tensor = torch.sqrt(apart.square().sum(dim=-1) + SMALL)
        return -UNIT * distance
