"""Stages of a recipe: a learner, its arguments, and the settings of its training."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pgdiff.agents.offline import OfflineAgent
from pgdiff.core.registry import registered
from pgdiff.core.settings import build_part, part_kind
from pgdiff.core.validation import PgdiffError, check_in, nearest
from pgdiff.data import Episodes
from pgdiff.guides import Guide
from pgdiff.runs.references import References, stages_in
from pgdiff.runs.regeneration import Regeneration
from pgdiff.training import Learner, Trainer

OF_THE_RUN = {"folder", "device", "seed", "progress", "callbacks", "resume"}
"""Arguments of `Trainer` that belong to the run."""

RESERVED = {"logs", "pictures"}
"""Names of folders in a run folder that are not stages."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a recipe, as plain JSON values.

    Attributes:
        name: name of the stage and of the folder of its result.
        learner: registered name of the learner.
        arguments: arguments of the learner's `from_episodes`, as plain values. A registered part
            is a name or `{name: ..., ...}`; a trained network is a reference, such as
            `{stage: NAME}` (see `pgdiff.runs.references`).
        trainer: arguments of `Trainer`; "steps" must be among them.
        synthetic: settings of an agent that learns from data which the run's model generates; see
            `pgdiff.runs.regeneration.Regeneration`. Empty for recorded data alone.

    Example:
        >>> from pgdiff.runs.stages import Stage
        >>> from pgdiff.testing import example_episodes
        >>> stage = Stage(
        ...     name="value", learner="transition_value", arguments={"stride": 2, "width": 16}
        ... )
        >>> type(stage.build(example_episodes(), seed=0)).__name__
        'TransitionValue'
    """

    name: str
    learner: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    synthetic: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in RESERVED:
            raise PgdiffError(
                "The name of a stage must consist of letters, digits and underscores, and must not "
                f"be one of {sorted(RESERVED)}. Got {self.name!r}."
            )
        check_in(f"learner of the stage '{self.name}'", self.learner, registered("learner"))
        if self.synthetic:
            Regeneration.from_settings(self.synthetic)
            learner = registered("learner")[self.learner]
            if not (issubclass(learner, OfflineAgent) and learner.learns_from_rewards):
                raise PgdiffError(
                    f"`synthetic` of the stage '{self.name}' needs a learner that uses rewards, "
                    f"such as td3_bc or iql. Got '{self.learner}'."
                )
            if self.trainer.get("workers"):
                raise PgdiffError(
                    f"`workers` of the stage '{self.name}' must be 0 with `synthetic`, because "
                    f"workers do not load new sets. Got {self.trainer['workers']}."
                )

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the stages whose networks this stage needs."""
        model = Regeneration.from_settings(self.synthetic).model if self.synthetic else {}
        return tuple(dict.fromkeys([*stages_in(self.arguments), *stages_in(model)]))

    def guides(self) -> tuple[Guide, ...]:
        """Return the guides of the generated data, with a stand-in for the agent."""
        return Regeneration.from_settings(self.synthetic).guides() if self.synthetic else ()

    def check_arguments(self) -> None:
        """Raise if an argument of the learner is unknown or missing."""
        learner: Any = registered("learner")[self.learner]
        self._check(self.arguments, learner.from_episodes, given={"episodes", "seed"})

    def build(
        self, episodes: Episodes, *, seed: int, references: References | None = None
    ) -> Learner:
        """Return the untrained learner.

        Args:
            episodes: recorded experience.
            seed: seed of the initial weights.
            references: loads the networks that the arguments refer to; None if a reference to a
                stage of the same run is an error.

        Raises:
            PgdiffError: an argument is unknown, missing or invalid.
        """
        self.check_arguments()
        learner_class: Any = registered("learner")[self.learner]
        make = learner_class.from_episodes
        references = References((), None) if references is None else references
        # Arguments that are fitted to the data, such as a normaliser, stay names.
        fitted = getattr(learner_class, "fitted_arguments", ())
        arguments = {}
        for key, value in self.arguments.items():
            value = references.resolve(value, name=f"{self.name}.{key}")
            arguments[key] = value if value is None or key in fitted else _part(key, value, make)
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
        """Return the trainer.

        Raises:
            PgdiffError: a setting is unknown, missing or invalid.
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


def _part(key: str, value: Any, make: Callable[..., Any]) -> Any:
    """Return the argument that a plain value stands for."""
    return build_part(part_kind(key, make), value, name=key)


def check_examples(learner: Learner, trainer: Trainer, episodes: Episodes) -> None:
    """Raise if the learner finds no example in the training or the held-out episodes.

    `Trainer.fit` raises too, but only after the run folder was written.
    """
    parts: tuple[Episodes, ...] = (episodes,)
    if trainer.validation > 0:
        parts = episodes.split(trainer.validation, seed=trainer.seed)
    learner.dataset(episodes)  # gives the clearest error if all episodes are too short
    for number, part in enumerate(parts):
        try:
            learner.dataset(part)
        except PgdiffError as error:
            part_name = "held out for validation" if number else "left for training"
            raise PgdiffError(
                f"`validation` of {trainer.validation} leaves too few examples among the episodes "
                f"that are {part_name}: {error} Change `validation` (0 for none), or record more."
            ) from error
