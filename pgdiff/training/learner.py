"""Protocols that a learner and its data must implement for the `Trainer`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from pgdiff.core.validation import PgdiffError

if TYPE_CHECKING:
    import os

    from pgdiff.data import Episodes


class BatchSource(Protocol):
    """Training examples that are gathered by index.

    With an optional attribute `episode_starts` (the first rows of the episodes of its examples),
    the Trainer reports the number of used episodes.

    Example:
        >>> from typing import NamedTuple
        >>> import numpy as np
        >>> class Batch(NamedTuple):
        ...     x: np.ndarray
        >>> class Numbers:  # a BatchSource
        ...     def __len__(self):
        ...         return 100
        ...     def batch(self, indices):
        ...         return Batch(x=indices.astype(np.float32))
        >>> Numbers().batch(np.array([1, 5])).x
        array([1., 5.], dtype=float32)
    """

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def batch(self, indices: Int64[np.ndarray, " batch"]) -> Any:
        """Return a `NamedTuple` of arrays, mappings of arrays, or None; one row per example."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Protocol of a `torch.nn.Module` that defines its data set and its losses.

    All state that a checkpoint must contain is a parameter or a persistent buffer. A learner that
    benefits from `torch.compile` also has `compile_parts()`, which compiles its networks in place
    (`self.network.compile()`), so that the names in its `state_dict` do not change.

    Example:
        >>> import pgdiff
        >>> from pgdiff.testing import example_episodes
        >>> from pgdiff.training import Learner
        >>> inverse = pgdiff.InverseDynamics.from_episodes(example_episodes(), stride=1)
        >>> isinstance(inverse, Learner)
        True
    """

    def dataset(self, episodes: "Episodes") -> BatchSource:
        """Return the training examples of the episodes."""
        ...

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return named scalar losses; the optimiser minimises their sum.

        Args:
            batch: the `NamedTuple` of the data set, as tensors on the learner's device.
            generator: source of all noise, on the learner's device.
        """
        ...

    def after_step(self) -> None:
        """Run after each optimiser step, for example to update a target network."""
        ...

    def save_pretrained(self, path: "str | os.PathLike[str]") -> None:
        """Save configuration and weights as a folder."""
        ...


AnyLearner = TypeVar("AnyLearner", bound=Learner)


def to_tensors(batch: Any, device: torch.device) -> Any:
    """Return the `NamedTuple` with its arrays as tensors on `device`; None fields stay None.

    Raises:
        PgdiffError: the batch is not a NamedTuple.
    """
    if not isinstance(batch, tuple) or not hasattr(batch, "_fields"):
        raise PgdiffError(f"A batch must be a NamedTuple of arrays. Got {type(batch).__name__}.")
    kind: Any = type(batch)
    return kind._make(_to_tensor(value, device) for value in batch)


def _to_tensor(value: Any, device: torch.device) -> Tensor | Mapping[str, Any] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _to_tensor(array, device) for name, array in value.items()}
    array = np.asarray(value)
    # Tensors cannot be read-only, but a view of a memory map is.
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch with their names, also those in mappings."""
    for field in batch._fields:
        value = getattr(batch, field)
        if isinstance(value, Mapping):
            yield from ((f"{field}/{name}", tensor) for name, tensor in value.items())
        elif isinstance(value, Tensor):
            yield field, value


def as_module(learner: Learner) -> nn.Module:
    """Return the learner as a module; raise if it is not a `Learner`."""
    if not isinstance(learner, nn.Module) or not isinstance(learner, Learner):
        raise PgdiffError(
            "`learner` must be a torch.nn.Module with dataset(), losses(), after_step() and "
            f"save_pretrained(). Got {type(learner).__name__}."
        )
    return learner


def check_losses(losses: dict[str, Tensor], learner: Learner) -> dict[str, Tensor]:
    """Return the losses; raise unless each is a differentiable scalar."""
    if not losses:
        raise PgdiffError(
            f"{type(learner).__name__}.losses() must return at least one loss. Got {{}}."
        )
    for name, loss in losses.items():
        if loss.ndim != 0 or not loss.requires_grad:
            raise PgdiffError(
                f"The loss '{name}' of {type(learner).__name__} must be a differentiable scalar. "
                f"Got shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}."
            )
    return losses
