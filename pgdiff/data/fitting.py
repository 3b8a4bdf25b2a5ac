"""Networks that are built from recorded episodes."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pgdiff.core.pretrained import Pretrained, seeded_torch
from pgdiff.core.validation import PgdiffError, nearest
from pgdiff.data.episodes import Episodes


class FromEpisodes(Pretrained):
    """A network that `from_episodes` builds to fit a recording.

    A subclass writes each of its settings once:

    - `__init__` has all arguments that `config.json` needs, with their defaults.
    - `fitted_arguments` names those of them that follow from the recording.
    - `fit_arguments` computes them. Its keyword arguments are settings of `from_episodes` too. One
      that is also an argument of `__init__`, and is not fitted, has no default: it is passed the
      value that `__init__` is given. With `**` it also takes the keyword arguments of the method
      that it overrides.

    `inspect.signature(cls.from_episodes)` lists the settings that result.

    Example:
        >>> import inspect, torch
        >>> from pgdiff.testing import example_episodes
        >>> class Mean(FromEpisodes):
        ...     fitted_arguments = ("size",)
        ...     def __init__(self, *, size, width=32):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(size, width)
        ...     @classmethod
        ...     def fit_arguments(cls, episodes):
        ...         return {"size": episodes.observations.shape[1]}
        >>> list(inspect.signature(Mean.from_episodes).parameters)
        ['episodes', 'width', 'seed']
        >>> Mean.from_episodes(example_episodes(), width=8).network
        Linear(in_features=4, out_features=8, bias=True)
    """

    fitted_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of `__init__` that `fit_arguments` returns."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        base: Any = vars(FromEpisodes)["from_episodes"].__func__
        if inspect.unwrap(getattr(cls.from_episodes, "__func__", None)) is not base:  # type: ignore[arg-type]
            return  # the subclass, or a base of it, overrides the method

        @functools.wraps(base)
        def from_episodes(cls: Any, episodes: Episodes, *, seed: int = 0, **settings: Any) -> Any:
            return base(cls, episodes, seed=seed, **settings)

        method: Any = from_episodes
        method.__signature__ = _signature(cls, base)
        cls.from_episodes = classmethod(method)  # type: ignore[assignment, method-assign]

    @classmethod
    def from_episodes(cls, episodes: Episodes, *, seed: int = 0, **settings: Any) -> Self:
        """Return a new, untrained network that fits recorded episodes.

        Args:
            episodes: the recording.
            seed: seed of the initial weights.
            **settings: arguments of the class that are not fitted to the recording, and keyword
                arguments of `fit_arguments`.

        Raises:
            PgdiffError: a setting is unknown, missing or out of range.
        """
        fit, parameters = _fit_parameters(cls), _settings(cls)
        chosen = _complete(settings, parameters, where=f"{cls.__name__}.from_episodes")
        with seeded_torch(seed=seed):  # outside of inference mode
            given = chosen | {"seed": seed}
            fitted = cls.fit_arguments(episodes, **{name: given[name] for name in fit})
        arguments = {
            name: chosen[name]
            for name in inspect.signature(cls).parameters
            if name not in cls.fitted_arguments
        }
        return cls.construct(arguments | fitted, seed=seed)

    @classmethod
    def fit_arguments(cls, *args: Any, **settings: Any) -> dict[str, Any]:
        """Return the arguments of `__init__` that follow from a recording, by name.

        Subclasses define it as `fit_arguments(cls, episodes, *, ...)`.
        """
        raise NotImplementedError

    @classmethod
    def construct(cls, arguments: dict[str, Any], *, seed: int) -> Self:
        """Return the network of these arguments, with initial weights drawn from `seed`."""
        with seeded_torch(seed=seed):
            return cls(**arguments)


def _signature(cls: type[FromEpisodes], function: Any) -> inspect.Signature:
    """Return the signature of `cls.from_episodes`, before it is bound to the class."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    first = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    last = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    settings = [p.replace(kind=p.KEYWORD_ONLY) for p in _settings(cls).values()]
    return signature.replace(parameters=[*first, *settings, *last], return_annotation=cls)


def _settings(cls: type[FromEpisodes]) -> dict[str, inspect.Parameter]:
    """Return the parameters that a caller of `from_episodes` chooses, without `seed`."""
    settings = {
        name: parameter
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in cls.fitted_arguments and parameter.kind is not parameter.VAR_KEYWORD
    }
    return settings | {
        name: parameter
        for name, parameter in _fit_parameters(cls).items()
        if name not in settings and name != "seed"
    }


def _fit_parameters(cls: type[FromEpisodes]) -> dict[str, inspect.Parameter]:
    """Return the keyword arguments of `fit_arguments`, those that it passes on included."""
    collected: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "fit_arguments" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["fit_arguments"].__func__).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY:
                collected.setdefault(parameter.name, parameter)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return collected


def _complete(
    settings: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], *, where: str
) -> dict[str, Any]:
    """Return the settings with defaults filled in; raise if a name is unknown or missing."""
    for name in settings:
        if name not in parameters:
            raise PgdiffError(
                f"`{where}` has no argument '{name}'. "
                f"It must be {nearest(name, [*parameters, 'seed'])}"
            )
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in settings:
            raise PgdiffError(f"`{where}` needs `{name}`, which is missing.")
    return {name: settings.get(name, p.default) for name, p in parameters.items()}
