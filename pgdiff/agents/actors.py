"""Policies of several members, as networks: mean and deviation of a Gaussian.

Everything here is in scaled units: normalised observations, actions in [-1, 1].
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.denoisers.batched_mlp import BatchedMLP
from pgdiff.validation import check_range

LEAST_LOG, MOST_LOG = -5.0, 2.0
"""Bounds of a learned logarithm of a standard deviation, as in the code of Kostrikov et al."""


class GaussianActor(nn.Module):
    """A Gaussian whose mean a network bounds by tanh, and whose deviation is the same everywhere.

    Args:
        members: number of actors side by side.
        inputs: features of an observation.
        outputs: features of an action.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    stochastic = True

    def __init__(self, members: int, inputs: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.network = BatchedMLP(members, inputs, outputs, width=width, depth=depth)
        self.log_deviation = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(
        self, x: Float[Tensor, "members batch inputs"], *, members: slice | None = None
    ) -> tuple[Float[Tensor, "members batch outputs"], Float[Tensor, "members 1 outputs"]]:
        """Return mean and logarithm of the standard deviation."""
        own = self.log_deviation if members is None else self.log_deviation[members]
        mean: Tensor = self.network(x, members=members).tanh()
        return mean, own.clamp(LEAST_LOG, MOST_LOG)


class DeterministicActor(nn.Module):
    """A network bounded by tanh, taken for a Gaussian of a fixed deviation about its action.

    Args:
        members: number of actors side by side.
        inputs: features of an observation.
        outputs: features of an action.
        width: of the hidden layers.
        depth: number of hidden layers.
        deviation: that of the density.
    """

    stochastic = False

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        deviation: float,
    ) -> None:
        super().__init__()
        self.network = BatchedMLP(members, inputs, outputs, width=width, depth=depth)
        self._log = math.log(check_range("deviation", deviation, low=0.0, open_low=True))

    def forward(
        self, x: Float[Tensor, "members batch inputs"], *, members: slice | None = None
    ) -> tuple[Float[Tensor, "members batch outputs"], Float[Tensor, ""]]:
        """Return the action and the logarithm of the deviation."""
        action: Tensor = self.network(x, members=members).tanh()
        return action, action.new_tensor(self._log)
