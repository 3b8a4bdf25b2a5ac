"""Tasks, recipes and classes of the user that the command line names.

Files are read but never executed. A module is imported only if the command line names it or if it
is an installed entry point; configuration files contain registered names instead.
"""

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pgdiff.cli.config_paths import (
    CUSTOM,
    GENERATED,
    TASK,
    TUNED,
    add_user_text,
    choices,
    clear_user_texts,
    groups,
    packaged,
    parse_yaml,
    text_of,
    user_texts,
)
from pgdiff.core.plugins import GROUP, import_plugin, load_installed_plugins
from pgdiff.core.validation import PgdiffError, check_in

FOLDER = "--config-dir"
PLUGINS = "plugins"
MODULE_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
"""Path of a class, such as `my_package.networks:MyConfig`."""

_IN_MODULE = re.compile(r"([A-Za-z_][\w.]*):([\w.-]+)")
_FILE = re.compile(r".*\.ya?ml|.*/.*", flags=re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r"[\w-]+", flags=re.ASCII)
_ENVIRONMENTS = ("task.id", "task.name", "env", "env_options", "termination")
"""Settings in which `MODULE:ID` names an environment, which Gymnasium imports."""


def read_own_parts(command: str, words: Sequence[str]) -> list[str]:
    """Read the files and import the modules that the words name.

    Args:
        command: name of the command.
        words: words of the command line.

    Returns:
        The words without `--config-dir`; names replace files and module paths of classes.
        `plugins` lists every imported module.

    Raises:
        PgdiffError: a file or folder is missing or not a configuration, a name belongs to a part of
            pgdiff, a module cannot be imported, or a class is not registered.
    """
    clear_user_texts()
    words, folder = _without_folder(words)
    if folder is not None:
        _read_folder(folder, command)
    words = [_read_files(word, groups(command)) for word in words]
    _check_tables()
    return _import_classes(words)


def read_plugins(words: Sequence[str]) -> list[str]:
    """Import the plugins of a command that takes a path, and return the other words."""
    clear_user_texts()
    return [word for word in _import_classes(words) if word.partition("=")[0] != PLUGINS]


# ---------------------------------------------------------------------------------------- files


def _without_folder(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Return the words without `--config-dir DIR`, and the folder."""
    rest, folder = [], None
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option != FOLDER:
            rest.append(word)
            continue
        value = value if equals else next(remaining, "")
        folder = Path(value).expanduser()
        if not value or not folder.is_dir():
            raise PgdiffError(f"`{FOLDER}` must be a folder. Got '{value}'.")
    return rest, folder


def _read_folder(folder: Path, command: str) -> None:
    """Read DIR/GROUP/NAME.yaml for the groups of all commands."""
    known = {*groups("train"), *groups("collect"), *groups("evaluate"), *groups(command), TUNED}
    known -= set(GENERATED)
    files = [file for group in sorted(known) for file in sorted((folder / group).glob("*.y*ml"))]
    if not files:
        raise PgdiffError(
            f"`{FOLDER}` must hold YAML files in folders such as recipe/ or task/ (one of "
            f"{', '.join(sorted(known))}). Got '{folder}' without such files."
        )
    for file in files:
        _read_file(file.parent.name, file)


def _read_files(word: str, known: Mapping[str, str]) -> str:
    """Return `GROUP=NAME` for `GROUP=./NAME.yaml`; other words unchanged."""
    group, _, value = word.partition("=")
    if group not in known or group in GENERATED or not value:
        return word
    names = [
        _read_file(group, Path(item.strip("'\"")).expanduser()) if _FILE.fullmatch(item) else item
        for item in value.split(",")
    ]
    return f"{group}={','.join(names)}"


def _read_file(group: str, file: Path) -> str:
    """Add the configuration in a file under the file's name, and return the name."""
    name = file.stem
    if not file.is_file():
        raise PgdiffError(f"`{group}` must be a name or a YAML file. '{file}' does not exist.")
    if not _NAME.fullmatch(name):
        raise PgdiffError(
            f"`{group}` must be a file with a name of letters, digits, - and _. Got '{file}'. "
            "Rename the file."
        )
    if group != TUNED and name in packaged(group):
        raise PgdiffError(
            f"`{group}` must not be a file with the name of a part of pgdiff. Got '{file}'. Rename "
            "the file."
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PgdiffError(f"'{file}' must be a UTF-8 text ({error}).") from error
    node = parse_yaml(text, file)
    if group == TASK and "defaults" not in node:
        text = f"defaults:\n  - {CUSTOM}\n  - _self_\n\n{text}"
    if group in ("recipe", TASK) and "name" not in node:
        text = f"{text.rstrip()}\nname: {name}\n"
    _check_task_keys(group, file, node)
    add_user_text(group, name, text)
    return name


def _check_task_keys(group: str, file: Path, node: Mapping[str, Any]) -> None:
    """Raise for a misspelt setting of a task; the user's recipes may read other new settings."""
    known = parse_yaml(text_of(TASK, CUSTOM), CUSTOM)
    for key in node if group == TASK else ():
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if close and key not in known:
            raise PgdiffError(f"'{file}' has no setting '{key}'. Did you mean '{close[0]}'?")


def _check_tables() -> None:
    """Raise if the recipe or a task of a table of tuned values does not exist."""
    for group, name in user_texts():
        if group != TUNED:
            continue
        check_in(f"recipe of the table {TUNED}/{name}.yaml", name, choices("recipe"))
        for task in parse_yaml(user_texts()[group, name], f"{TUNED}/{name}.yaml"):
            check_in(f"task in the table {TUNED}/{name}.yaml", task, choices(TASK))


# -------------------------------------------------------------------------------------- classes


def _import_classes(words: Sequence[str]) -> list[str]:
    """Import plugins and classes by module path; return the words with registered names."""
    modules = plugins_of(words)
    for name in modules:
        import_plugin(name)
    changed = [_with_names(word, modules) for word in words]
    if modules or entry_points(group=GROUP):
        load_installed_plugins()
    rest = [word for word in changed if word.partition("=")[0] != PLUGINS]
    return [*rest, f"{PLUGINS}=[{','.join(dict.fromkeys(modules))}]"] if modules else rest


def plugins_of(words: Sequence[str]) -> list[str]:
    """Return the modules of `plugins=MODULE` or `plugins=[A,B]`."""
    values = [word.partition("=")[2] for word in words if word.partition("=")[0] == PLUGINS]
    names = [name.strip(" '\"") for value in values for name in value.strip("[]").split(",")]
    return [name for name in names if name not in ("", "null")]


def _with_names(word: str, modules: list[str]) -> str:
    """Import the classes whose module paths a word contains; replace the paths by names."""
    key = word.partition("=")[0].lstrip("+")
    if not MODULE_PATH.search(word) or key.startswith("hydra"):
        return word
    if key in _ENVIRONMENTS or key.endswith(".termination"):
        return word
    for path in dict.fromkeys(_module_paths(word)):
        module, _, name = path.partition(":")
        cls = getattr(import_plugin(module), name, None)
        modules.append(module)
        word = re.sub(rf"(?<![\w.]){re.escape(path)}(?!\w)", _registered_name(cls, path), word)
    return re.sub(r"^(denoiser|guide)\.name=", r"\1=", word)


def _module_paths(word: str) -> Iterator[str]:
    """Yield the module paths of classes among the values of a word."""
    from pgdiff.cli.overrides import parse
    from pgdiff.cli.path_settings import is_path

    (override,) = parse([word], sweep=True)
    if not is_path(override.key):
        values = override.value if override.values is None else list(override.values)
        yield from (path for path in _strings(values) if MODULE_PATH.fullmatch(path))


def _strings(value: Any) -> Iterator[str]:
    """Yield every text in a nested value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _registered_name(cls: Any, path: str) -> str:
    from pgdiff.core.registry import is_registered, name_of

    if not isinstance(cls, type) or not is_registered(cls):
        problem = "a missing name" if cls is None else "an object without a registered name"
        raise PgdiffError(
            f"'{path}' must be a registered class. Got {problem}. Decorate the class with "
            "@register(KIND, NAME) of pgdiff.core.registry."
        )
    return name_of(cls)


# ------------------------------------------------------------------------ module names in files


def check_registered_names(settings: Mapping[str, Any], words: Sequence[str]) -> None:
    """Raise if a configuration file names a class or an environment by its module.

    An environment `MODULE:ID` is accepted if its module is imported already.

    Args:
        settings: settings of a command.
        words: words of the command line, whose texts are not from a file.
    """
    typed = " ".join(words)
    shipped = {parse_yaml(text_of(TASK, name), name).get("id") for name in packaged(TASK)}
    texts = [
        t for values in settings.values() if isinstance(values, Mapping) for t in _strings(values)
    ]
    for text in texts:
        match = _IN_MODULE.fullmatch(text)
        if match is None or text in typed or text in shipped:
            continue
        if MODULE_PATH.fullmatch(text):
            raise PgdiffError(
                f"A configuration file must hold registered names. Got '{text}'. Write the "
                f"registered name in the file, and import the module with {PLUGINS}={match[1]}."
            )
        if match[1] not in sys.modules:
            raise PgdiffError(
                f"`{PLUGINS}` must name the module of '{text}', because a configuration file never "
                f"imports a module. Set {PLUGINS}={match[1]}."
            )
