"""Settings that are paths, and the quotes with which Hydra reads a path unchanged."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

SINGLE = (
    "base",
    "behaviour",
    "ensemble",
    "explain_behaviour",
    "model",
    "out",
    "real",
    "target",
    "guide.agent",
    "guide.critic",
    "guide.value",
    "recipe.guides.*.agent",
    "recipe.guides.*.critic",
    "recipe.guides.*.value",
)
"""Settings that are one path. The settings of guides may also be a reference, {stage: A}."""

SEVERAL = (
    "compare",
    "data",
    "policy",
    "run",
    "synthetic",
    "vec_normalize",
    "recipe.stages.*.arguments.policies",
)
"""Settings that are one path or, in some commands, a list of paths: [A,B,C]."""

_INNER = "agent|critic|run|vec_normalize"
_IN_MAPPING = re.compile(rf"(?<=[{{,\s])({_INNER})(\s*:\s*)(?!null\b)([^\s'\"{{\[][^,}}]*)")
_INTERPOLATION = re.compile(r"\$\{[A-Za-z_.][^${}]*\}")
_SWEEP_FUNCTION = re.compile(r"(choice|glob|interval|range|shuffle|sort|tag)\(")
_PLAIN = re.compile(r"[A-Za-z_./~][\w./~-]*", flags=re.ASCII)
_WORDS = frozenset({"null", "true", "false", "inf", "nan"})
_PAIRS = {"[": "]", "(": ")", "{": "}"}


def is_path(key: str) -> bool:
    """Return whether the setting with a dotted key is a path or a list of paths."""
    return any(fnmatchcase(key, pattern) for pattern in (*SINGLE, *SEVERAL))


def quoted_word(word: str, *, sweep: bool) -> str:
    """Return `KEY=VALUE` with every path in it quoted for Hydra; other words unchanged.

    A path may contain any character. Only an interpolation such as `${task.name}` keeps its
    meaning, and in a sweep the commas between paths and the functions such as `choice(A,B)`. Values
    that the user quoted are unchanged.

    Args:
        word: word of the command line.
        sweep: whether commas separate values.
    """
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if not equals or not value:
        return word
    if not is_path(name) or ("guide" in name and value[0] == "{"):
        # In {policy: {agent: PATH}} a path ends at a comma or a brace.
        inner = _IN_MAPPING.sub(lambda m: f"{m[1]}{m[2]}{quoted(m[3].rstrip())}", value)
        return f"{key}={inner}" if value[0] == "{" else word
    if sweep and _SWEEP_FUNCTION.match(value):
        return word
    several = any(fnmatchcase(name, pattern) for pattern in SEVERAL)
    values = list(_split(value)) if sweep else [value]
    if len(values) == 1:
        return f"{key}={_value(value, several=several)}"
    # Swept paths are part of default outputs, so that only paths that need quotes get them.
    return f"{key}={','.join(_swept_value(item, several=several) for item in values)}"


def _swept_value(value: str, *, several: bool) -> str:
    plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain else _value(value, several=several)


def _value(value: str, *, several: bool) -> str:
    if value == "null" or value[:1] in ("'", '"'):
        return value
    if several and value[0] + value[-1] == "[]" and not Path(value).exists():
        return f"[{','.join(map(_element, _split(value[1:-1])))}]"
    return quoted(value)


def _element(value: str) -> str:
    value = value.strip()
    return value if value[:1] in ("'", '"') else quoted(value)


def quoted(path: str) -> str:
    """Return a text quoted for Hydra, with backslashes escaped where Hydra reads them."""
    pieces, last = [], 0
    for match in _INTERPOLATION.finditer(path):
        pieces += [_escaped(path[last : match.start()]), match[0]]
        last = match.end()
    text = "".join([*pieces, _escaped(path[last:])])
    text = re.sub(r"(\\*)'", lambda m: rf"{m[1] * 2}\'", text)
    text = re.sub(r"\\+$", lambda m: m[0] * 2, text)
    return f"'{text}'"


def _escaped(text: str) -> str:
    return re.sub(r"(\\*)\$\{", lambda m: rf"{m[1] * 2}\${{", text)


def _split(text: str) -> Iterator[str]:
    """Yield the parts of a text between commas outside of quotes and closed brackets."""
    start, open_until, quote = 0, [], ""
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[index - 1] != "\\" else quote
        elif letter in "'\"" and not text[start:index].strip("[ "):
            quote = letter  # an apostrophe inside a name is not a quote
        elif letter in _PAIRS and _PAIRS[letter] in text[index:]:
            open_until.append(_PAIRS[letter])
        elif open_until and letter == open_until[-1]:
            open_until.pop()
        elif letter == "," and not open_until:
            yield text[start:index]
            start = index + 1
    yield text[start:]
