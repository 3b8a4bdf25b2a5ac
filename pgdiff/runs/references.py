"""References in settings to trained networks, and the loading of these networks.

An argument that is a trained network is written as

- `{stage: NAME}`: the network of another stage of the run;
- `{run: DIR, stage: NAME}`: the network of a stage of another run;
- `{agent: FILE}`: a zip file of Stable-Baselines3, or the folder of an agent, of another network,
  or of a run with one agent; `vec_normalize: FILE` adds the statistics of a zip file.

A path in the settings of a run folder is relative to this folder. A path that a person passes is
relative to the working folder. Networks are loaded frozen: in evaluation mode, without gradients
for their weights.
"""

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

import pgdiff.agents  # these four register the learners
import pgdiff.critics
import pgdiff.dynamics
import pgdiff.model.trajectory_diffusion
from pgdiff.agents.offline import OfflineAgent
from pgdiff.core.pretrained import Pretrained, load_learner
from pgdiff.core.registry import registered
from pgdiff.core.serialization import CONFIG
from pgdiff.core.settings import Argument, arguments
from pgdiff.core.validation import PgdiffError, nearest, user_path
from pgdiff.runs.run import RunInfo, StageRecord, read_run

KEYS = ("stage", "run", "agent", "vec_normalize")
"""Keys of a reference."""

PATHS = ("run", "agent", "vec_normalize")
"""Keys of a reference that are paths."""


def is_reference(value: object) -> bool:
    """Return whether a plain value is a reference."""
    return isinstance(value, Mapping) and bool(value) and set(value) <= set(KEYS)


@dataclass(frozen=True)
class NetworkArgument:
    """An argument of a class that is a trained network.

    Attributes:
        types: registered learners that the argument accepts, and protocols that they satisfy.
        required: whether the argument has no default.
    """

    types: tuple[type, ...]
    required: bool

    def accepts(self, learner: type) -> bool:
        """Return whether networks of a class may be passed."""
        return any(_satisfies(learner, accepted) for accepted in self.types)

    @property
    def names(self) -> str:
        """Names of the types, for messages."""
        return " or ".join(accepted.__name__ for accepted in self.types)


def network_arguments(cls: type) -> dict[str, NetworkArgument]:
    """Return the arguments of a class that are trained networks, by their annotations.

    An annotation names a registered learner, such as `TransitionValue`, or a protocol that a
    registered learner satisfies, such as `Actor`.

    Args:
        cls: any class.

    Example:
        >>> from pgdiff.guides import Policy
        >>> from pgdiff.runs.references import network_arguments
        >>> network_arguments(Policy)["agent"].names
        'Actor'
    """
    networks = {}
    for name, argument in arguments(cls).items():
        types = tuple(hint for hint in _types(argument) if _is_network(hint))
        if types:
            networks[name] = NetworkArgument(types, argument.default is _EMPTY)
    return networks


def as_reference(value: Any, stages: Sequence[StageRecord]) -> Any:
    """Return the reference that a text stands for: a stage of the run, or else a path.

    Args:
        value: value of an argument that is a network; other values than texts are returned
            unchanged.
        stages: stages of the run.
    """
    if isinstance(value, str) and any(stage.name == value for stage in stages):
        return {"stage": value}
    return {"agent": value} if isinstance(value, str | os.PathLike) else value


def anchor(value: Any, folder: Path) -> Any:
    """Return settings of a run folder with the paths of their references under the folder."""
    return _with_paths(value, lambda path: str(folder / user_path(path)))


def relative_to(value: Any, folder: Path) -> Any:
    """Return settings with the relative paths of their references relative to a run folder."""

    def relative(path: str | os.PathLike[str]) -> str:
        given = user_path(path)
        return str(given) if given.is_absolute() else os.path.relpath(given, folder)

    return _with_paths(value, relative)


class References:
    """Loader of the networks that the settings of a run refer to.

    Args:
        stages: stages of the run.
        run: the run; None if it is not trained yet. A stage then stands for an untrained object of
            its class, which suffices to check settings.
        device: device of the networks.
    """

    def __init__(
        self,
        stages: Sequence[StageRecord],
        run: RunInfo | None,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.run = run
        self.device = device

    def resolve(self, value: Any, *, name: str) -> Any:
        """Return a value with every reference in it replaced by its network.

        In a list, an agent stands for its members, one after the other.

        Args:
            value: plain value.
            name: name of the setting, for messages.

        Raises:
            PgdiffError: see `load`.
        """
        if is_reference(value):
            return self.load(value, name=name)
        if isinstance(value, Mapping):
            return {key: self.resolve(item, name=f"{name}.{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [
                part
                for index, item in enumerate(value)
                for part in self._items(item, name=f"{name}[{index}]")
            ]
            return type(value)(items)
        return value

    def load(self, reference: Mapping[str, Any], *, name: str) -> Any:
        """Return the network of a reference, frozen.

        Args:
            reference: the reference; paths are relative to the working folder.
            name: name of the setting, for messages.

        Raises:
            PgdiffError: the keys do not fit; the stage, run or file is missing, unfinished or
                damaged.
        """
        check_reference(reference, name=name)
        if "agent" in reference:
            return self._agent(reference, name=name)
        try:
            if "run" in reference:
                other = read_run(user_path(reference["run"]))
                return frozen(other.load(str(reference["stage"]), device=self.device))
            stage = self._stage(reference, name=name)
            if self.run is None:
                return _untrained(stage)
            return frozen(self.run.load(stage.name, device=self.device))
        except PgdiffError as error:
            if str(error).startswith(f"`{name}"):
                raise
            raise PgdiffError(f"`{name}` must refer to a trained network. {error}") from error

    def learner(self, reference: Mapping[str, Any], *, name: str) -> type | None:
        """Return the class of the network of a stage of this run; None for another reference."""
        check_reference(reference, name=name)
        if "agent" in reference or "run" in reference:
            return None
        return learner_of(self._stage(reference, name=name))

    def _stage(self, reference: Mapping[str, Any], *, name: str) -> StageRecord:
        stage = self.stages.get(str(reference["stage"]))
        if stage is None:
            where = "the recipe" if self.run is None else f"the run '{self.run.path}'"
            raise PgdiffError(
                f"`{name}` must refer to a stage of {where}, "
                f"{nearest(str(reference['stage']), self.stages)} Got '{reference['stage']}'."
            )
        return stage

    def _agent(self, reference: Mapping[str, Any], *, name: str) -> Any:
        source, statistics = reference["agent"], reference.get("vec_normalize")
        try:
            if not isinstance(source, str | os.PathLike):
                # A model object shares its weights with the caller, who may train it further.
                return pgdiff.agents.load(source, vec_normalize=statistics)
            path = user_path(source)
            if statistics is None and (path / CONFIG).is_file():
                return frozen(load_learner(path, device=self.device))
            if statistics is not None:
                statistics = user_path(statistics)
            return frozen(pgdiff.agents.load(path, vec_normalize=statistics, device=self.device))
        except PgdiffError as error:
            raise PgdiffError(f"`{name}` must refer to the file of an agent. {error}") from error

    def _items(self, item: Any, *, name: str) -> list[Any]:
        part = self.resolve(item, name=name)
        if is_reference(item) and isinstance(part, OfflineAgent):
            return [frozen(part.member(index)) for index in range(part.members)]
        return [part]


def check_reference(reference: Mapping[str, Any], *, name: str) -> None:
    """Raise if the keys of a reference do not fit together.

    Args:
        reference: a mapping.
        name: name of the setting, for messages.
    """
    for key in reference:
        if key not in KEYS:
            raise PgdiffError(f"`{name}` has no '{key}'. It must be {nearest(str(key), KEYS)}")
    by_stage, by_agent = "stage" in reference, "agent" in reference
    fits = not by_agent and "vec_normalize" not in reference if by_stage else "run" not in reference
    if by_stage == by_agent or not fits:
        raise PgdiffError(
            f"`{name}` must be {{stage: NAME}}, {{run: DIR, stage: NAME}} or {{agent: FILE}}, "
            f"the last with an optional vec_normalize. Got {dict(reference)}."
        )


def stages_in(value: Any) -> Iterator[str]:
    """Yield the names of the stages of the same run that plain settings refer to."""
    if is_reference(value):
        if "stage" in value and "run" not in value:
            yield str(value["stage"])
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from stages_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from stages_in(item)


def learner_of(stage: StageRecord) -> type:
    """Return the class that a stage trains.

    Raises:
        PgdiffError: the class is not registered.
    """
    learner = registered("learner").get(stage.learner)
    if learner is None:
        raise PgdiffError(
            f"The learner '{stage.learner}' of the stage '{stage.name}' must be registered. pgdiff "
            "never imports a module that a file names. Import the module that registers it first."
        )
    return learner


def frozen(network: Any) -> Any:
    """Return a network in evaluation mode, without gradients for its weights."""
    return network.eval().requires_grad_(False) if isinstance(network, nn.Module) else network


def _untrained(stage: StageRecord) -> Any:
    """Return an object of a stage's class with the stage's arguments and without weights."""
    blank: Any = object.__new__(learner_of(stage))
    vars(blank).update(stage.arguments)
    return blank


def _with_paths(value: Any, change: Any) -> Any:
    if is_reference(value):
        return {
            key: change(item) if key in PATHS and isinstance(item, str | os.PathLike) else item
            for key, item in value.items()
        }
    if isinstance(value, Mapping):
        return {key: _with_paths(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_paths(item, change) for item in value]
    return value


_EMPTY = inspect.Parameter.empty


def _types(argument: Argument) -> Iterator[type]:
    for hint in get_args(argument.hint) or (argument.hint,):
        if isinstance(hint, type):
            yield hint


def _is_network(hint: type) -> bool:
    if issubclass(hint, Pretrained):
        return True
    protocol = getattr(hint, "_is_runtime_protocol", False)
    return protocol and any(_satisfies(kind, hint) for kind in registered("learner").values())


def _satisfies(learner: type, accepted: type) -> bool:
    try:
        return issubclass(learner, accepted)
    except TypeError:  # a protocol with attributes that are not methods
        return False
