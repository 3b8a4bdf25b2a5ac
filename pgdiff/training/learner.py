"""What the Trainer asks of anything that can be trained."""

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from pgdiff.validation import PgdiffError

if TYPE_CHECKING:
    import os

    from pgdiff.data import Episodes


class BatchSource(Protocol):
    """Training examples that are gathered by index.

    One that has `episode_starts`, the first rows of the episodes that its examples come from, lets
    the Trainer say how many episodes are used.
    """

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def batch(self, indices: Int64[np.ndarray, " batch"]) -> Any:
        """Return a `NamedTuple` of NumPy arrays (or None), one row per example."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A `torch.nn.Module` that knows its data and its losses.

    Everything that must survive a checkpoint is a parameter or a persistent buffer. A learner that
    gains from `torch.compile` also has `compile_parts()`, which compiles its networks in place
    (`self.network.compile()`), so that no name in its `state_dict` changes.
    """

    def dataset(self, episodes: "Episodes") -> BatchSource:
        """Return the examples that this learner takes from the episodes."""
        ...

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return named scalar losses, whose sum is minimised.

        Args:
            batch: the `NamedTuple` of the data set, as tensors on the learner's device.
            generator: where all noise comes from; it lives on the learner's device.
        """
        ...

    def after_step(self) -> None:
        """Do what follows a step of the optimiser, such as moving a slow target network."""
        ...

    def save_pretrained(self, path: "str | os.PathLike[str]") -> None:
        """Save configuration and weights as a folder."""
        ...


AnyLearner = TypeVar("AnyLearner", bound=Learner)


def to_tensors(batch: Any, device: torch.device) -> Any:
    """Return the same `NamedTuple` with tensors on `device` in place of arrays (None stays).

    Raises:
        PgdiffError: the batch is no NamedTuple.
    """
    if not isinstance(batch, tuple) or not hasattr(batch, "_fields"):
        raise PgdiffError(f"A batch must be a NamedTuple. Got {type(batch).__name__}.")
    kind: Any = type(batch)
    return kind._make(_to_tensor(value, device) for value in batch)


def _to_tensor(value: Any, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    array = np.asarray(value)
    # A view of a memory map is read-only, which tensors do not know.
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def as_module(learner: Learner) -> nn.Module:
    """Return the learner as the module that it is, or say what it lacks."""
    if not isinstance(learner, nn.Module) or not isinstance(learner, Learner):
        raise PgdiffError(
            "`learner` must be a torch.nn.Module with dataset(), losses(), after_step() and "
            f"save_pretrained(). Got {type(learner).__name__}."
        )
    return learner


def check_losses(losses: dict[str, Tensor], learner: Learner) -> dict[str, Tensor]:
    """Return the losses if each is a differentiable scalar."""
    if not losses:
        raise PgdiffError(f"{type(learner).__name__}.losses() must name at least one loss.")
    for name, loss in losses.items():
        if loss.ndim != 0 or not loss.requires_grad:
            raise PgdiffError(
                f"The loss '{name}' of {type(learner).__name__} must be a differentiable scalar. "
                f"Got shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}."
            )
    return losses
