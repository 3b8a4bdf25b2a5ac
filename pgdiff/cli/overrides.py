"""Parsing and checking of the command line's overrides, with suggestions for unknown keys."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType, QuotedString, Transformer
from hydra.errors import HydraException

from pgdiff.cli.config_paths import choices, groups
from pgdiff.cli.path_settings import quoted_word
from pgdiff.core.validation import PgdiffError, check_in

# Below these keys the command line may add settings.
OPEN_KEYS = ("recipe.stages.", "recipe.planner.", "recipe.guides.", "condition.")


@dataclass(frozen=True, kw_only=True)
class Override:
    """One word of the command line.

    Attributes:
        text: text that is passed to Hydra.
        key: dotted key, or group.
        value: plain value; None for a sweep or a deletion.
        values: all values of a sweep over choices, an empty tuple for another sweep, else None.
        adds: whether the word is `+key=value` or `++key=value`.
        deletes: whether the word is `~key`.
    """

    text: str
    key: str
    value: Any
    values: tuple[Any, ...] | None
    adds: bool
    deletes: bool

    @property
    def is_for_hydra(self) -> bool:
        """Whether the word sets one of Hydra's settings."""
        return self.key.startswith(("hydra.", "hydra/"))


def parse(words: Sequence[str], *, sweep: bool) -> list[Override]:
    """Parse words as Hydra's overrides.

    The value of a path setting may contain any characters.

    Args:
        words: `key=value`, `+key=value`, `~key`.
        sweep: whether comma-separated values are allowed.
    """
    parser = OverridesParser.create()
    overrides = []
    for word in words:
        text = quoted_word(word, sweep=sweep)
        if word.startswith("-"):
            raise PgdiffError(f"`{word}` is not a setting. Write settings as KEY=VALUE.")
        try:
            (override,) = parser.parse_overrides([text])
        except HydraException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise PgdiffError(
                f"`{word}` is not a setting ({reason}). Write settings as KEY=VALUE; quote values "
                "with brackets, braces or equal signs: KEY=\"'VALUE'\"."
            ) from error
        swept = override.is_sweep_override()
        if swept and not sweep:
            raise PgdiffError(f"`{word}` holds several values. Add -m to sweep over them.")
        if override.package is not None:
            raise PgdiffError(f"`{word}` must not move a group. Leave out '@'.")
        values = None
        if swept:
            values = (
                tuple(map(_plain, override.sweep_iterator(transformer=Transformer.identity)))
                if override.is_choice_sweep()
                else ()
            )
        overrides.append(
            Override(
                text=text,
                key=override.key_or_group,
                value=None if swept or override.is_delete() else override.value(),
                values=values,
                adds=override.type in (OverrideType.ADD, OverrideType.FORCE_ADD),
                deletes=override.is_delete(),
            )
        )
    return overrides


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def base_words(command: str, overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Yield the choices of groups, for every combination of a sweep.

    Raises:
        PgdiffError: a choice is unknown; the message suggests the nearest one.
    """
    known = groups(command)
    chosen: dict[str, list[str]] = {}
    for override in overrides:
        if override.key in known:
            if override.deletes or override.adds:
                raise PgdiffError(
                    f"`{override.key}` must be set as {override.key}=NAME. Got '{override.text}'."
                )
            values = [override.value] if override.values is None else override.values
            names = [str(value) for value in values]
            for name in names:
                check_in(override.key, name, choices(override.key))
            chosen[override.key] = names
    for combination in product(*chosen.values()):
        yield [f"{group}={name}" for group, name in zip(chosen, combination, strict=True)]


def check_keys(command: str, overrides: Iterable[Override], keys: frozenset[str]) -> None:
    """Raise for the first key that the composed configuration does not have."""
    for override in overrides:
        is_open = override.key.startswith(OPEN_KEYS)
        if override.deletes and not is_open:
            raise PgdiffError(f"`{override.key}` must not be removed. Got '{override.text}'.")
        if override.key in keys or (override.adds and is_open):
            continue
        close = _nearest(override.key, keys)
        hint = f" Did you mean '{close}'?" if close else ""
        raise PgdiffError(
            f"`pgdiff {command}` has no setting '{override.key}'.{hint} "
            f"`pgdiff {command} --help` lists them."
        )


def _nearest(key: str, keys: frozenset[str]) -> str | None:
    """Return the known key that is closest to an unknown key; None without a similar key.

    Candidates, the best first: a similar key of the same group, a key of another group with the
    same last part, a longer key of the same group, and the most similar of all keys.
    """
    group, _, end = key.rpartition(".")
    known = sorted(name for name in keys if not f"{key}.".startswith(f"{name}."))
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    similar = difflib.get_close_matches(end, siblings, n=1, cutoff=0.8)
    if similar:
        return siblings[similar[0]]
    by_end: dict[str, str] = {}
    for name in sorted(known, key=lambda name: (-name.count("."), name)):
        by_end[name.rpartition(".")[2]] = name  # the least nested key replaces the others
    if end in by_end:
        same = [name for name in known if name.rpartition(".")[2] == end]
        return (difflib.get_close_matches(key, same, n=1, cutoff=0.85) or [by_end[end]])[0]
    longer = [name for last, name in siblings.items() if last.startswith(end)]
    if longer:
        return longer[0]
    whole = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    last = difflib.get_close_matches(end, by_end, n=1, cutoff=0.6)
    return whole[0] if whole else (by_end[last[0]] if last else None)
