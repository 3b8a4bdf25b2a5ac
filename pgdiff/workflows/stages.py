"""A stage of a recipe: which learner is trained, with which arguments, and how."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import pgdiff.agents
import pgdiff.critics
import pgdiff.dynamics
import pgdiff.model  # noqa: F401  (these four register the learners)
from pgdiff.agents.offline import OfflineAgent
from pgdiff.data import Episodes
from pgdiff.guides import Guide
from pgdiff.registry import from_config, registered
from pgdiff.training import Learner, Trainer
from pgdiff.validation import PgdiffError, check_in, nearest
from pgdiff.workflows.regeneration import Regeneration

PARTS = ("denoiser", "schedule", "prediction", "levels", "loss_weight")
"""Arguments that are described as {"name": …, …} and become objects of the kind of that name."""

LISTS = {"conditions": "condition"}
"""Arguments that are lists of such descriptions, and their kind."""

OF_THE_RUN = {"folder", "device", "seed", "progress", "callbacks", "resume"}
"""What a run says for all its stages."""

RESERVED = {"logs", "pictures"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a recipe; plain JSON values throughout.

    Attributes:
        name: of the stage and of the folder of its result.
        learner: registered name of the learner.
        arguments: of the learner's `from_episodes`; those in `PARTS` are
            {"name": …, …} of a registered part, those in `LISTS` lists of such.
        trainer: arguments of `Trainer`; "steps" must be among them.
        synthetic: of an agent: that it learns from what the run's model generates, and how; see
            `pgdiff.workflows.regeneration.Regeneration`. Empty for real data alone.
    """

    name: str
    learner: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    synthetic: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in RESERVED:
            raise PgdiffError(
                "The name of a stage must be letters, digits and underscores, and none of "
                f"{sorted(RESERVED)}. Got {self.name!r}."
            )
        check_in(f"learner of the stage '{self.name}'", self.learner, registered("learner"))
        if self.synthetic:
            Regeneration.from_settings(self.synthetic)
            learner = registered("learner")[self.learner]
            if not (issubclass(learner, OfflineAgent) and learner.learns_from_rewards):
                raise PgdiffError(
                    f"The stage '{self.name}' must learn from rewards, as td3_bc or iql does, to "
                    f"have `synthetic`. Got '{self.learner}'."
                )
            if self.trainer.get("workers"):
                raise PgdiffError(
                    f"`workers` of the stage '{self.name}' must be 0 with `synthetic`, whose sets "
                    f"they would not see. Got {self.trainer['workers']}."
                )

    def guides(self) -> tuple[Guide, ...]:
        """What steers the data that it learns from, with a stand-in for the agent."""
        return Regeneration.from_settings(self.synthetic).guides() if self.synthetic else ()

    def build(self, episodes: Episodes, *, seed: int) -> Learner:
        """Make the learner, untrained.

        Raises:
            PgdiffError: an unknown, missing or bad argument.
        """
        make = registered("learner")[self.learner].from_episodes  # type: ignore[attr-defined]
        self._check(self.arguments, make, given={"episodes", "seed"})
        arguments = {key: _built(key, value) for key, value in self.arguments.items()}
        try:
            learner: Learner = make(episodes, seed=seed, **arguments)
        except TypeError as error:
            raise PgdiffError(
                f"The stage '{self.name}' cannot be built from {dict(self.arguments)}: {error}."
            ) from error
        return learner

    def make_trainer(
        self,
        *,
        folder: Path,
        seed: int,
        device: str | torch.device,
        resume: bool,
        progress: bool,
    ) -> Trainer:
        """Make the trainer.

        Raises:
            PgdiffError: an unknown, missing or bad setting.
        """
        self._check(self.trainer, Trainer, given=OF_THE_RUN)
        try:
            return Trainer(
                **self.trainer,
                folder=folder,
                seed=seed,
                device=device,
                resume=resume,
                progress=progress,
            )
        except TypeError as error:
            raise PgdiffError(
                f"The stage '{self.name}' cannot be trained with {dict(self.trainer)}: {error}."
            ) from error

    def _check(self, chosen: Mapping[str, Any], make: Callable[..., Any], given: set[str]) -> None:
        parameters = {
            key: parameter
            for key, parameter in inspect.signature(make).parameters.items()
            if key not in given
        }
        where = f"The stage '{self.name}'"
        for key in chosen:
            if key not in parameters:
                raise PgdiffError(f"{where} has no '{key}'. It must be {nearest(key, parameters)}")
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in chosen:
                raise PgdiffError(f"{where} needs `{key}`, which is missing.")


def _built(key: str, value: Any) -> Any:
    if value is None and key in LISTS:
        return ()
    if key in PARTS and value is not None:
        return from_config(key, value)
    if key in LISTS and value is not None:
        if not isinstance(value, list | tuple):
            raise PgdiffError(f"`{key}` must be a list of {{name: ..., ...}}. Got {value!r}.")
        return tuple(
            from_config(LISTS[key], {"name": item} if isinstance(item, str) else item)
            for item in value
        )
    return value


def check_examples(learner: Learner, trainer: Trainer, episodes: Episodes) -> None:
    """Raise an error if the learner finds no example in the training or the held-out episodes.

    `Trainer.fit` would find out as well, but only when a run has begun.
    """
    parts: tuple[Episodes, ...] = (episodes,)
    if trainer.validation > 0:
        parts = episodes.split(trainer.validation, seed=trainer.seed)
    learner.dataset(episodes)  # the clearest error, where all is too short
    for number, part in enumerate(parts):
        try:
            learner.dataset(part)
        except PgdiffError as error:
            what = "held out for validation" if number else "left for training"
            raise PgdiffError(
                f"`validation` of {trainer.validation} leaves too little: of the episodes that are "
                f"{what}, {error} Change `validation` (0 for none), or record more."
            ) from error
