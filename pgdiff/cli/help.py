"""Help texts of commands: their settings with defaults and descriptions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pgdiff.cli.config_paths import (
    CONFIG_DIR,
    CUSTOM,
    GENERATED,
    TASK,
    TUNED,
    choices,
    groups,
    node_of,
    tables,
    text_of,
)
from pgdiff.core.validation import check_in

_DEFAULTS = re.compile(r"^defaults:(?: .*\n|\n(?:  .*\n)+)", flags=re.MULTILINE)
_GENERATED_HEAD = {
    "planner": "planner: a setting that is left out keeps the value of the run",
    "sampling": "sampling: a setting that is left out keeps the default below",
    "trainer": "trainer of every stage: null keeps the value of the recipe, or else the default",
}
_OPTIONS = """options:
  -m               sweep over comma-separated values: seed=0,1,2
  --cfg job        print the settings as YAML instead of running the command
  --config-dir DIR also use DIR/task/NAME.yaml, DIR/recipe/NAME.yaml and so on"""


def path_help(command: str, line: str) -> str:
    """Return the help of a command that takes a path."""
    return (
        f"usage: pgdiff {command} PATH_OR_MINARI_ID [plugins=MODULE]\n\n{_sentence(line)}\n\n"
        "settings:\n  plugins: null  # module with your own registered parts, or [A,B]"
    )


def settings_help(command: str, line: str, words: Sequence[str] = ()) -> str:
    """Return the help of a command that takes settings.

    Args:
        command: name of the command.
        line: one line about the command.
        words: words of the command line; `recipe=actions`, for example, shows the settings of this
            recipe.

    Raises:
        PgdiffError: an unknown choice of a group.
    """
    text = (CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8")
    text = text.partition("_self_\n")[2] or text
    parts = [
        f"usage: pgdiff {command} [SETTING=VALUE ...] [-m] [--cfg job] [--config-dir DIR]",
        _sentence(line),
        _OPTIONS,
        f"settings and their defaults:\n{_indent(text.strip())}",
    ]
    chosen = _chosen(command, words)
    parts += [_group_help(group, choice, chosen) for group, choice in chosen.items()]
    return "\n\n".join(parts)


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def _group_help(group: str, choice: str, chosen: Mapping[str, str]) -> str:
    """Return the help of a choice and of the choices that it extends."""
    if group in GENERATED:
        from pgdiff.cli.generated import generated_help  # imports PyTorch

        return f"{_GENERATED_HEAD[group]}\n{_indent(generated_help(group), prefix=group)}"
    head = f"{group}={choice}, one of: {', '.join(choices(group))}"
    bodies = {node: _body(*node) for node in [(group, choice), *_bases(group, choice)]}
    tuned = _insert_tuned(bodies, chosen.get(TASK, CUSTOM))
    if tuned:
        head += f"\n  (with the values of {', '.join(tuned)} for task={chosen[TASK]})"
    sections: list[str] = []
    for node, body in bodies.items():
        title = f"  {group}={choice} extends {node[0]}={node[1]}:" if sections else head
        sections.append(f"{title}\n{_indent(body, prefix=group)}")
    return "\n".join(sections)


def _chosen(command: str, words: Sequence[str]) -> dict[str, str]:
    """Return the choice of every group: from the words, or the recipe, or else the default."""
    known = groups(command)
    given = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in known:
            given[key] = check_in(key, value.partition(",")[0], choices(key))
        elif key in ("task.id", "task.name") and TASK in known:
            given.setdefault(TASK, _task_of(value) if key == "task.id" else CUSTOM)
    chosen = known | given
    for group, choice in list(chosen.items()):
        if group in GENERATED:
            continue
        for node in reversed([(group, choice), *_bases(group, choice)]):
            for key, value in _defaults(*node):
                other = re.match(r"override /(\w+)@", key)
                if other and other[1] in known and other[1] not in given:
                    chosen[other[1]] = value
    return chosen


def _task_of(env_id: str) -> str:
    """Return the task with an environment; the custom task if none has it."""
    matches = (name for name in choices(TASK) if node_of(TASK, name).get("id") == env_id)
    return next(matches, CUSTOM)


def _defaults(group: str, choice: str) -> Iterator[tuple[str, str]]:
    """Yield key and value of each default of a choice; the key of a plain name is empty."""
    for item in node_of(group, choice).get("defaults", []):
        if isinstance(item, Mapping):
            yield from ((str(key), str(value)) for key, value in item.items())
        else:
            yield "", str(item)


def _bases(group: str, choice: str) -> list[tuple[str, str]]:
    """Return group and name of the choices that a choice extends, the nearest first."""
    bases: list[tuple[str, str]] = []
    for key, value in _defaults(group, choice):
        other_group = re.fullmatch(r"/(\w+)@_here_", key)
        if (other_group or not key) and value != "_self_":
            base = (other_group[1] if other_group else group, value)
            bases += [base, *_bases(*base)]
    return bases


def _body(group: str, choice: str) -> str:
    return re.sub(r"\n\n+", "\n", _DEFAULTS.sub("", f"{text_of(group, choice)}\n")).strip()


# --------------------------------------------------------------------------------- tuned values


def _insert_tuned(bodies: dict[tuple[str, str], str], task: str) -> list[str]:
    """Write a task's tuned values into the texts; return the names of the tables."""
    names = []
    nodes = list(bodies)
    for index, node in enumerate(nodes):
        for key, _ in _defaults(*node):
            table = re.fullmatch(rf"optional /{TUNED}/([\w-]+)@_here_", key)
            row = tables().get(table[1], {}).get(task) if table else None
            if row and table:
                names.append(f"{TUNED}/{table[1]}.yaml")
                for path, value in _leaves(row):
                    _insert(bodies, nodes[index:], path, value)
    return names


def _leaves(row: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in row.items():
        if isinstance(value, Mapping) and "name" not in value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _insert(
    bodies: dict[tuple[str, str], str],
    nodes: Sequence[tuple[str, str]],
    path: Sequence[str],
    value: Any,
) -> None:
    """Replace a value in the first text that contains it, or add a line to the first text."""
    for node in nodes:
        span = _span(bodies[node], path)
        if span is not None:
            body = bodies[node]
            bodies[node] = body[: span[0]] + _flow(value) + body[span[1] :]
            return
    bodies[nodes[0]] += f"\n{'.'.join(path)}: {_flow(value)}"


def _span(text: str, path: Sequence[str]) -> tuple[int, int] | None:
    """Return start and end of a value in a YAML text; None if the text does not contain it."""
    node = yaml.compose(text, yaml.SafeLoader)
    for key in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in pairs if name.value == key), None)
    return None if node is None else (node.start_mark.index, node.end_mark.index)


def _flow(value: Any) -> str:
    """Return a value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1_000_000, sort_keys=False)
    return str(text).removesuffix("...\n").strip()


def _indent(text: str, prefix: str = "") -> str:
    """Indent the lines of a text; write settings of a group as `group.key: value`."""
    lines = []
    for line in text.splitlines():
        if prefix and re.match(r"[a-z_]", line):
            line = f"{prefix}.{line}"
        lines.append(f"  {line}".rstrip())
    return "\n".join(lines)
