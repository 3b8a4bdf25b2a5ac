"""Settings of a command, composed by Hydra from the words of the command line."""

import functools
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from pgdiff.cli.config_paths import (
    CLASSES,
    CONFIG_DIR,
    CUSTOM,
    GENERATED,
    TASK,
    TUNED,
    choices,
    classes,
    groups,
    node_of,
    tables,
    user_texts,
)
from pgdiff.cli.generated import LEFT_OUT, generated_groups
from pgdiff.cli.overrides import Override, base_words, check_keys, parse
from pgdiff.cli.own_parts import check_registered_names, plugins_of
from pgdiff.cli.path_settings import is_path
from pgdiff.core.plugins import import_plugin
from pgdiff.core.serialization import write_whole
from pgdiff.core.validation import PgdiffError

SWEEP = ("-m", "--multirun")
VERSION = "1.3"
PLACE, EXIT = Path("runs/multirun"), ".exit"


def is_sweep(words: Sequence[str]) -> bool:
    """Return whether the words contain the option of a sweep."""
    return any(word in SWEEP for word in words)


def settings(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a command: the YAML files with the words applied.

    Args:
        command: name of the primary configuration.
        words: Hydra's overrides, `key=value`.

    Raises:
        PgdiffError: a word is not an override, or a key or choice is unknown; the message suggests
            the nearest one.
    """
    overrides = parse(words, sweep=False)
    _check(command, overrides)
    return _plain(_compose(command, [override.text for override in overrides]))


def sweep(command: str, words: Sequence[str], module: Any) -> int:
    """Run a command for every combination of comma-separated values by Hydra's launcher.

    A failed job is reported, and the other jobs still run. Hydra's basic launcher runs the jobs one
    after the other in this process; other launchers use processes, or machines that share the
    folder.

    Returns:
        0 if every job succeeded, else 1.
    """
    words = [word for word in words if word not in SWEEP]
    typed, modules = words, plugins_of(words)
    prepare = getattr(module, "prepare", None)
    if prepare is not None:
        words = prepare(words, sweep=True)
    overrides = parse(words, sweep=True)
    _check(command, [override for override in overrides if not override.is_for_hydra])
    folder = PLACE / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{os.getpid()}"
    absolute = folder.absolute()

    def job(config: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        job_words = hydra_config.overrides.task
        swept = {override.key for override in overrides if override.values is not None}
        label = [_label(word) for word in job_words if word.partition("=")[0] in swept]
        print(f"--- {command} {' '.join(label)}", flush=True)
        try:
            for name in modules:  # the job may run in another process
                import_plugin(name)
            settings = _plain(config)
            check_registered_names(settings, typed)
            code = int(module.run(settings | {"sweep": label}))
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = 1
        # Hydra drops the returned value, and the job may run on another machine.
        write_whole(absolute / f"{hydra_config.job.num}{EXIT}", str(code))

    _store(command, [override.text for override in overrides])
    hydra_settings = [
        f"hydra.sweep.dir={folder}",
        "hydra/job_logging=disabled",
        "hydra/hydra_logging=disabled",
    ]
    given = {override.key for override in overrides}
    extra = [word for word in hydra_settings if word.partition("=")[0] not in given]
    argv = sys.argv
    sys.argv = ["pgdiff", "--multirun", *(override.text for override in overrides), *extra]
    try:
        main = hydra.main(config_path=str(CONFIG_DIR), config_name=command, version_base=VERSION)
        main(job)()
    finally:
        sys.argv = argv
    codes = [file.read_text() for file in absolute.glob(f"*{EXIT}")]
    return int(set(codes) != {"0"})


def as_yaml(settings: dict[str, Any]) -> str:
    """Return settings as a YAML text."""
    return OmegaConf.to_yaml(OmegaConf.create(settings))


def _label(word: str) -> str:
    """Return a word without the quotes around a path."""
    (override,) = parse([word], sweep=False)
    return f"{override.key}={override.value}" if is_path(override.key) else word


def _check(command: str, overrides: Sequence[Override]) -> None:
    """Check every key against the composed configuration, before Hydra reads it."""
    combinations = list(base_words(command, overrides))
    known = groups(command)
    rest = [override for override in overrides if override.key not in known]
    if rest:
        keys = frozenset().union(*(_keys(command, tuple(words)) for words in combinations))
        check_keys(command, rest, keys)


def _keys(command: str, words: tuple[str, ...]) -> frozenset[str]:
    """Return all keys of the configuration with the choices in `words`."""
    return _keys_with(command, words, _state())


@functools.cache
def _keys_with(command: str, words: tuple[str, ...], state: tuple[Any, ...]) -> frozenset[str]:
    return frozenset(_flat(OmegaConf.to_container(_compose(command, words), resolve=False)))


def _store(command: str, words: Sequence[str]) -> None:
    """Store the configurations that are not files of the package, so that Hydra finds them.

    Only tasks that the words name are stored, because Hydra copies all of them in every
    composition.
    """
    default = groups(command).get(TASK)
    if default is not None:
        task_words = [word for word in words if word.startswith(f"{TASK}=")]
        every = any("glob(" in word for word in task_words)
        tasks = [
            task for task in choices(TASK) if every or any(task in word for word in task_words)
        ]
        _store_with(_state(), tuple(sorted({*tasks, default, CUSTOM})))
    else:
        _store_with(_state(), ())


def _state() -> tuple[Any, ...]:
    """Return the user's configurations and classes, on which a composition depends."""
    named = tuple((group, tuple(classes(group).items())) for group in CLASSES)
    return (tuple(user_texts().items()), named)


@functools.lru_cache(maxsize=1)
def _store_with(state: tuple[Any, ...], tasks: tuple[str, ...]) -> None:
    store = ConfigStore.instance()
    nodes = {(group, GENERATED[group]): node for group, node in generated_groups().items()}
    nodes |= {(group, name): node_of(group, name) for group in CLASSES for name in classes(group)}
    nodes |= {key: node_of(*key) for key in user_texts() if key[0] != TUNED}
    nodes |= {(TASK, task): node_of(TASK, task) for task in tasks}
    for name, rows in tables().items():
        nodes |= {(f"{TUNED}/{name}", task): rows[task] for task in tasks if task in rows}
    for group in {group.partition("/")[0] for group, _ in nodes} | _stored:
        store.repo.pop(group, None)
        _stored.add(group)
    for (group, name), node in nodes.items():
        store.store(group=group, name=name, node=node)


_stored: set[str] = set()
"""Groups in Hydra's store that `_store` wrote."""


def _compose(command: str, words: Sequence[str]) -> DictConfig:
    _store(command, words)
    try:
        with hydra.initialize_config_dir(config_dir=str(CONFIG_DIR), version_base=VERSION):
            return hydra.compose(config_name=command, overrides=list(words))
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__
        if isinstance(cause, ConfigKeyError):  # a key inside a value, unknown to `check_keys`
            raise PgdiffError(
                f"`{cause.full_key}` is not a setting yet. Write + in front of it to add it."
            ) from error
        raise PgdiffError(f"{str(error).strip().splitlines()[0]}.") from error


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise PgdiffError(f"{str(error).strip().splitlines()[0]}.") from error
    assert isinstance(plain, dict)
    return {str(key): _without_missing(value) for key, value in plain.items()}


def _without_missing(node: Any) -> Any:
    """Return settings without the ones that are left out."""
    if not isinstance(node, dict):
        return node
    kept = {key: _without_missing(value) for key, value in node.items() if value != LEFT_OUT}
    return {key: value for key, value in kept.items() if value != {} or node[key] == {}}


def _flat(node: Any, prefix: str = "") -> list[str]:
    """Return every dotted key, including those of inner nodes."""
    if not isinstance(node, dict):
        return []
    keys = []
    for name, value in node.items():
        key = f"{prefix}{name}"
        keys += [key, *_flat(value, f"{key}.")]
    return keys
