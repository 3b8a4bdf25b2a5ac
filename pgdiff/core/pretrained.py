"""Networks that can be saved to a folder and loaded from it."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn

from pgdiff.core.migration import migrate_learner
from pgdiff.core.registry import check_imported, from_config, registered, to_config
from pgdiff.core.serialization import load_folder, load_weights, resolve_device, save_folder
from pgdiff.core.validation import PgdiffError, check_seed

_HOMES = ("pgdiff.model", "pgdiff.agents", "pgdiff.critics", "pgdiff.dynamics")
"""Packages that register networks. They are imported when a folder is loaded, because it may name
any of these networks; module-level imports would be circular."""


class Pretrained(nn.Module):
    """Base class of registered networks that are built from their constructor arguments alone.

    Subclasses are decorated with `@register("learner", name)` and store every constructor argument
    in an attribute of the same name.
    """

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the folder `path`: `config.json`, `model.safetensors` and their SHA-256 sums.

        Raises:
            PgdiffError: a weight is NaN or infinite, or the folder cannot be written.
        """
        save_folder(path, {"learner": to_config(self)}, self.state_dict())

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, device: str | torch.device = "auto"
    ) -> Self:
        """Load a network that `save_pretrained` wrote, in evaluation mode.

        Args:
            path: the folder.
            device: device of the network; "auto" selects CUDA if available, else the CPU.

        Raises:
            PgdiffError: the folder is missing, damaged, of a newer format, or holds another kind
                of network.
        """
        learner = load_learner(path, device=device)
        if not isinstance(learner, cls):
            raise PgdiffError(
                f"'{path}' must hold a {cls.__name__}. Got a {type(learner).__name__}."
            )
        return learner

    def after_step(self) -> None:
        """Run after each training step; does nothing unless a subclass overrides it."""

    def compile_parts(self) -> None:
        """Compile the networks in place, for training with `compile=True`."""
        for part in self.children():
            part.compile()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device


@contextmanager
def seeded_torch(*, seed: int) -> Iterator[None]:
    """Seed PyTorch's global CPU generator within the block and restore it afterwards.

    It is for code that accepts no other generator: the initial weights of PyTorch's layers and the
    policies of Stable-Baselines3. Inference mode is switched off, so that weights made in the block
    can be differentiated.
    """
    seed = check_seed("seed", seed)
    # Leaving inference mode enables gradients.
    gradients = torch.is_grad_enabled() or torch.is_inference_mode_enabled()
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
    ):
        torch.default_generator.manual_seed(seed)
        yield


@torch.inference_mode(False)
def load_learner(
    path: str | os.PathLike[str], *, device: str | torch.device = "auto"
) -> Pretrained:
    """Load any network that `save_pretrained` wrote; the folder names its class."""
    config, tensors = load_folder(path, device=resolve_device(device))
    described: Any = config.get("learner")
    name = described.get("name") if isinstance(described, dict) else described
    for home in _HOMES:
        importlib.import_module(home)
    if isinstance(described, dict):
        check_imported("learner", described)
    kinds = sorted(registered("learner"))
    if not isinstance(described, dict) or name not in kinds:
        raise PgdiffError(
            f"The config.json of '{path}' must name one of the networks {kinds}. Got {name!r}."
        )
    described, tensors = migrate_learner(described, tensors, number=config["format"])
    with seeded_torch(seed=0):  # the weights are overwritten below
        learner: Pretrained = from_config("learner", described)
    learner.to(resolve_device(device))
    load_weights(learner, tensors)
    return learner.eval()
