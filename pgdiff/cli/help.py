"""The help of one command: its settings, as the YAML files have them, with their comments."""

import re

from pgdiff.cli.places import CONFIG_DIR, choices, groups


def path_help(command: str, line: str) -> str:
    """Help of a command that takes a path."""
    return f"usage: pgdiff {command} PATH_OR_MINARI_ID\n\n{line.capitalize()}."


def settings_help(command: str, line: str) -> str:
    """Help of a command that takes settings."""
    text = (CONFIG_DIR / f"{command}.yaml").read_text(encoding="utf-8")
    own = text.partition("- _self_\n")[2].strip()
    parts = [
        f"usage: pgdiff {command} [SETTING=VALUE ...] [-m]",
        f"{line.capitalize()}. -m sweeps over comma-separated values: seed=0,1,2.",
        f"settings and what they are by default:\n{_indent(own)}",
    ]
    for group, default in groups(command).items():
        body = (CONFIG_DIR / group / f"{default}.yaml").read_text(encoding="utf-8").strip()
        names = ", ".join(choices(group))
        head = f"{group}={default}, one of: {names}"
        parts.append(f"{head}\n{_indent(body, prefix=group)}")
    return "\n\n".join(parts)


def _indent(text: str, prefix: str = "") -> str:
    """Indent; a group's own keys are shown as they are typed, `group.key: value`."""
    lines = []
    for line in text.splitlines():
        if prefix and re.match(r"[a-z_]", line):
            line = f"{prefix}.{line}"
        lines.append(f"  {line}".rstrip())
    return "\n".join(lines)
