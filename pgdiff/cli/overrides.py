"""Overrides of the command line: reading them, and naming the nearest where one is unknown."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType, QuotedString, Transformer
from hydra.errors import HydraException

from pgdiff.cli.path_settings import quoted_word
from pgdiff.cli.places import choices, groups
from pgdiff.validation import PgdiffError, check_in

# Below these keys a recipe may be given what it does not name itself.
OPEN_KEYS = ("recipe.stages.", "recipe.planner.", "recipe.guides.")


@dataclass(frozen=True, kw_only=True)
class Override:
    """One word of the command line.

    Attributes:
        text: as Hydra is given it.
        key: dotted key, or group.
        value: plain value; None of a sweep or a deletion.
        values: all values of a sweep over choices, else None.
        adds: whether it is `+key=value` or `++key=value`.
        deletes: whether it is `~key`.
    """

    text: str
    key: str
    value: Any
    values: tuple[Any, ...] | None
    adds: bool
    deletes: bool

    @property
    def hydras(self) -> bool:
        """Whether it is a setting of Hydra's own."""
        return self.key.startswith(("hydra.", "hydra/"))


def parse(words: Sequence[str], *, sweep: bool) -> list[Override]:
    """Read words as Hydra's overrides.

    A value of a path setting is taken as it is, whatever characters are in it.

    Args:
        words: `key=value`, `+key=value`, `~key`.
        sweep: whether comma-separated values are allowed.
    """
    parser = OverridesParser.create()
    found = []
    for word in words:
        text = quoted_word(word, sweep=sweep)
        if word.startswith("-"):
            raise PgdiffError(f"`{word}` is no setting. Settings are written KEY=VALUE.")
        try:
            (override,) = parser.parse_overrides([text])
        except HydraException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise PgdiffError(
                f"`{word}` is no setting ({reason}). Settings are written KEY=VALUE; quote values "
                "with brackets, braces or equal signs: KEY=\"'VALUE'\"."
            ) from error
        swept = override.is_sweep_override()
        if swept and not sweep:
            raise PgdiffError(f"`{word}` holds several values. Add -m to sweep over them.")
        if override.package is not None:
            raise PgdiffError(f"`{word}`: a group stays where it is. Leave out '@'.")
        values = None
        if swept:
            values = (
                tuple(map(_plain, override.sweep_iterator(transformer=Transformer.identity)))
                if override.is_choice_sweep()
                else ()
            )
        found.append(
            Override(
                text=text,
                key=override.key_or_group,
                value=None if swept or override.is_delete() else override.value(),
                values=values,
                adds=override.type in (OverrideType.ADD, OverrideType.FORCE_ADD),
                deletes=override.is_delete(),
            )
        )
    return found


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def base_words(command: str, overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Yield the choices of groups alone, for every combination that is swept over.

    Raises:
        PgdiffError: an unknown choice, with the nearest.
    """
    known = groups(command)
    chosen: dict[str, list[str]] = {}
    for override in overrides:
        if override.key in known:
            if override.deletes or override.adds:
                raise PgdiffError(f"`{override.key}` must stay. Got '{override.text}'.")
            values = [override.value] if override.values is None else override.values
            names = [str(value) for value in values]
            for name in names:
                check_in(override.key, name, choices(override.key))
            chosen[override.key] = names
    for combination in product(*chosen.values()):
        yield [f"{group}={name}" for group, name in zip(chosen, combination, strict=True)]


def check_keys(command: str, overrides: Iterable[Override], keys: frozenset[str]) -> None:
    """Raise an error for the first key that the composed configuration does not have."""
    for override in overrides:
        free = override.key.startswith(OPEN_KEYS)
        if override.deletes and not free:
            raise PgdiffError(f"`{override.key}` must stay. Got '{override.text}'.")
        if override.key in keys or (override.adds and free):
            continue
        close = _nearest(override.key, keys)
        hint = f" Did you mean '{close}'?" if close else ""
        raise PgdiffError(
            f"`pgdiff {command}` has no setting '{override.key}'.{hint} "
            f"`pgdiff {command} --help` lists them."
        )


def _nearest(key: str, keys: frozenset[str]) -> str | None:
    """The key that is meant: nearly the same, or of the same last part, or like it."""
    same = difflib.get_close_matches(key, keys, n=1, cutoff=0.85)
    if same:
        return same[0]
    by_end: dict[str, str] = {}
    for name in sorted(keys, key=lambda name: (-name.count("."), name)):
        by_end[name.rpartition(".")[2]] = name  # the least nested one stays
    end = key.rpartition(".")[2]
    if end in by_end:
        return by_end[end]
    whole = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    part = difflib.get_close_matches(end, by_end, n=1, cutoff=0.6)
    return whole[0] if whole else (by_end[part[0]] if part else None)
