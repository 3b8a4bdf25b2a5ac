"""The help of one command: its settings, as the YAML files have them, with their comments."""

import re
from collections.abc import Sequence

from pgdiff.cli.places import CONFIG_DIR, choices, groups
from pgdiff.validation import check_in

_DEFAULTS = re.compile(r"^defaults:\n(?:  .*\n)+", flags=re.MULTILINE)
_BASE = re.compile(r"^  - (?:/(\w+)@_here_: )?([\w-]+)$", flags=re.MULTILINE)
_OVERRIDE = re.compile(r"^  - override /(\w+)@\S+: ([\w-]+)$", flags=re.MULTILINE)


def path_help(command: str, line: str) -> str:
    """Help of a command that takes a path."""
    return f"usage: pgdiff {command} PATH_OR_MINARI_ID\n\n{line.capitalize()}."


def settings_help(command: str, line: str, words: Sequence[str] = ()) -> str:
    """Help of a command that takes settings.

    Args:
        command: its name.
        line: what it does.
        words: of the command line; those that choose of a group, such as `recipe=actions`, show the
            settings of that choice.

    Raises:
        PgdiffError: a choice that the group has not.
    """
    text = (CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8")
    parts = [
        f"usage: pgdiff {command} [SETTING=VALUE ...] [-m]",
        f"{line.capitalize()}. -m sweeps over comma-separated values: seed=0,1,2.",
        f"settings and what they are by default:\n{_indent(_DEFAULTS.sub('', text).strip())}",
    ]
    chosen = _chosen(command, words)
    for group, choice in chosen.items():
        head = f"{group}={choice}, one of: {', '.join(choices(group))}"
        bodies = [f"{head}\n{_indent(_body(group, choice), prefix=group)}"]
        for base_group, base in _bases(group, choice):
            below = _indent(_body(base_group, base), prefix=group)
            bodies.append(f"  and what {group}={choice} takes from {base_group}={base}:\n{below}")
        parts.append("\n".join(bodies))
    return "\n\n".join(parts)


def _chosen(command: str, words: Sequence[str]) -> dict[str, str]:
    """The choice of every group: by the words, else by the chosen recipe, else the default."""
    own = groups(command)
    given = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in own:
            given[key] = check_in(key, value.partition(",")[0], choices(key))
    chosen = own | given
    for group, choice in list(chosen.items()):
        for name, base in reversed([(group, choice), *_bases(group, choice)]):
            for other, preferred in _OVERRIDE.findall(_text(name, base)):
                if other in own and other not in given:
                    chosen[other] = preferred
    return chosen


def _bases(group: str, choice: str) -> list[tuple[str, str]]:
    """Group and name of the files that a choice extends, the nearest first."""
    found: list[tuple[str, str]] = []
    header = _DEFAULTS.search(_text(group, choice))
    for other, base in _BASE.findall(header[0] if header else ""):
        if base != "_self_":
            below = (other or group, base)
            found += [below, *_bases(*below)]
    return found


def _text(group: str, choice: str) -> str:
    return (CONFIG_DIR / group / f"{choice}.yaml").read_text(encoding="utf-8")


def _body(group: str, choice: str) -> str:
    return _DEFAULTS.sub("", _text(group, choice)).strip()


def _indent(text: str, prefix: str = "") -> str:
    """Indent; a group's own keys are shown as they are typed, `group.key: value`."""
    lines = []
    for line in text.splitlines():
        if prefix and re.match(r"[a-z_]", line):
            line = f"{prefix}.{line}"
        lines.append(f"  {line}".rstrip())
    return "\n".join(lines)
