"""Two critics of actions for each member."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.denoisers.batched_mlp import BatchedMLP

HEADS = 2


class TwinCritic(nn.Module):
    """Two networks a member from (observation, action) to a return (Fujimoto et al. 2018, 4.2).

    Args:
        members: number of learners side by side.
        inputs: features of observation and action.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(self, members: int, inputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.network = BatchedMLP(HEADS * members, inputs, 1, width=width, depth=depth)

    def forward(self, x: Float[Tensor, "members batch inputs"]) -> Float[Tensor, "members 2 batch"]:
        """Both estimates of every member."""
        both = x.repeat_interleave(HEADS, dim=0)
        return self._apart(self.network(both))

    def first_head(
        self, x: Float[Tensor, "members batch inputs"]
    ) -> Float[Tensor, "members batch"]:
        """The first estimate of every member; its gradient reaches the inputs alone."""
        estimates: Tensor = self.network(x, members=slice(None, None, HEADS), frozen=True)
        return estimates[..., 0]

    def first_member(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "2 batch"]:
        """Both estimates of the first member."""
        both = x.expand(HEADS, *x.shape)
        return self._apart(self.network(both, members=slice(HEADS)))[0]

    @staticmethod
    def _apart(estimates: Tensor) -> Tensor:
        return torch.unflatten(estimates[..., 0], 0, (-1, HEADS))
