"""Policy networks of several members, with the mean and standard deviation of a Gaussian.

All quantities are scaled: normalised observations, actions in [-1, 1].
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.core.validation import check_range
from pgdiff.nn.mlp import BatchedMLP

MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0
"""Bounds of the learned log-deviation, as in the code of Kostrikov et al."""


class GaussianActor(nn.Module):
    """A Gaussian with a mean network bounded by tanh and a constant standard deviation.

    Args:
        members: number of actors.
        inputs: number of features of an observation.
        outputs: number of features of an action.
        width: units of each hidden layer.
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
        """Return the mean and the logarithm of the standard deviation."""
        log_deviation = self.log_deviation if members is None else self.log_deviation[members]
        mean: Tensor = self.network(x, members=members).tanh()
        return mean, log_deviation.clamp(MIN_LOG_STD, MAX_LOG_STD)


class DeterministicActor(nn.Module):
    """A network bounded by tanh; its density is a Gaussian of fixed deviation about the action.

    Args:
        members: number of actors.
        inputs: number of features of an observation.
        outputs: number of features of an action.
        width: units of each hidden layer.
        depth: number of hidden layers.
        deviation: standard deviation of the density.
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
        """Return the action and the logarithm of the standard deviation."""
        action: Tensor = self.network(x, members=members).tanh()
        return action, action.new_tensor(self._log)
