"""What a denoiser is to the rest of the package."""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class DenoiserConfig(Protocol):
    """A frozen, registered description of a network.

    The network is called as `network(x, level)` with noisy tokens `[batch, tokens, features]` and
    levels `[batch or 1, tokens]` in [0, 1], and gives its raw output `[batch, tokens, outputs]`;
    the model's `prediction` says what that means.
    """

    def build(self, *, features: int, outputs: int | None = None) -> nn.Module:
        """Make the network for tokens of `features` features, giving `outputs` (as many)."""
        ...
