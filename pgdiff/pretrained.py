"""Networks that are saved as a folder and come back from it."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn

from pgdiff.registry import check_imported, from_config, registered, to_config
from pgdiff.saving import load_folder, load_weights, resolve_device, save_folder
from pgdiff.validation import PgdiffError, check_seed

_HOMES = ("pgdiff.model", "pgdiff.agents", "pgdiff.critics", "pgdiff.dynamics")
"""Where this package registers its networks. They are imported when a folder is read, because it
may name any of them, whatever its reader has imported; `import` statements would be a circle."""


class Pretrained(nn.Module):
    """A registered network whose constructor's arguments are all that is needed to build it.

    Subclasses decorate themselves with `@register("learner", name)` and keep every argument of the
    constructor as an attribute of the same name.
    """

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the folder `path`: `config.json`, `model.safetensors` and their SHA-256 sums.

        Raises:
            PgdiffError: weights that are NaN or infinite, or a folder that cannot be written.
        """
        save_folder(path, {"learner": to_config(self)}, self.state_dict())

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, device: str | torch.device = "auto"
    ) -> Self:
        """Read what `save_pretrained` wrote, in evaluation mode.

        Args:
            path: the folder.
            device: where the network is to be; "auto" is CUDA where there is one.

        Raises:
            PgdiffError: a folder that is absent, damaged, of a newer format, or of another kind
                of network.
        """
        learner = load_learner(path, device=device)
        if not isinstance(learner, cls):
            raise PgdiffError(
                f"'{path}' must hold a {cls.__name__}. Got a {type(learner).__name__}."
            )
        return learner

    def after_step(self) -> None:
        """Do what follows a step of training: nothing, unless a subclass has it."""

    def compile_parts(self) -> None:
        """Compile the network in place, for training with `compile=True`."""
        for part in self.children():
            part.compile()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


@contextmanager
def seeded_torch(*, seed: int) -> Iterator[None]:
    """Within it, torch's global generator on the CPU starts from `seed`; it is put back after.

    For what knows no other generator: the first weights of PyTorch's layers, the policies of
    Stable-Baselines3. Weights that are made within can be differentiated, whatever mode the caller
    is in.
    """
    seed = check_seed("seed", seed)
    # Leaving inference mode switches gradients on.
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
    """Read any network that `save_pretrained` wrote; its kind is in the folder."""
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
            f"'{path}' must describe one of the networks {kinds} in its config.json. Got {name!r}."
        )
    schedule = described.get("schedule")
    if config["format"] < 2 and isinstance(schedule, dict) and schedule.get("name") == "linear":
        # Format 1 had no rule against schedules that leak; what was trained so must still load.
        schedule.setdefault("allow_leak", True)
    with seeded_torch(seed=0):  # overwritten at once
        learner: Pretrained = from_config("learner", described)
    learner.to(resolve_device(device))
    load_weights(learner, tensors)
    return learner.eval()
