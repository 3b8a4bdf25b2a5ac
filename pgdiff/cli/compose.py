"""From the words of the command line to a plain dict of settings, by Hydra."""

import functools
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from pgdiff.cli.overrides import Override, base_words, check_keys, parse
from pgdiff.cli.path_settings import is_path
from pgdiff.cli.places import CONFIG_DIR, groups
from pgdiff.saving import write_whole
from pgdiff.validation import PgdiffError

SWEEP = ("-m", "--multirun")
VERSION = "1.3"
PLACE, EXIT = Path("runs/multirun"), ".exit"


def is_sweep(words: Sequence[str]) -> bool:
    """Whether the words ask for a sweep."""
    return any(word in SWEEP for word in words)


def settings(command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a command: the YAML files with the words applied.

    Args:
        command: name of the primary configuration.
        words: Hydra's overrides, `key=value`.

    Raises:
        PgdiffError: a word that is no override, an unknown key or choice, with the nearest.
    """
    overrides = parse(words, sweep=False)
    _check(command, overrides)
    return _plain(_compose(command, [override.text for override in overrides]))


def sweep(command: str, words: Sequence[str], module: Any) -> int:
    """Run a command for every combination of comma-separated values, by Hydra's launcher.

    A job that fails is reported and the others go on. Hydra's own launcher runs them in this
    process, one after the other; others in processes or on machines that share this folder.

    Returns:
        0 where every job went well, else 1.
    """
    words = [word for word in words if word not in SWEEP]
    prepare = getattr(module, "prepare", None)
    if prepare is not None:
        words = prepare(words, sweep=True)
    overrides = parse(words, sweep=True)
    _check(command, [override for override in overrides if not override.hydras])
    folder = PLACE / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{os.getpid()}"
    place = folder.absolute()

    def job(config: DictConfig) -> None:
        hydras = HydraConfig.get()
        own = hydras.overrides.task
        swept = {override.key for override in overrides if override.values is not None}
        label = [_label(word) for word in own if word.partition("=")[0] in swept]
        print(f"--- {command} {' '.join(label)}", flush=True)
        try:
            code = int(module.run(_plain(config) | {"sweep": label}))
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            code = 1
        # Hydra drops what a job returns, and the job may run elsewhere.
        write_whole(place / f"{hydras.job.num}{EXIT}", str(code))

    own_settings = [
        f"hydra.sweep.dir={folder}",
        "hydra/job_logging=disabled",
        "hydra/hydra_logging=disabled",
    ]
    given = {override.key for override in overrides}
    extra = [word for word in own_settings if word.partition("=")[0] not in given]
    argv = sys.argv
    sys.argv = ["pgdiff", "--multirun", *(override.text for override in overrides), *extra]
    try:
        main = hydra.main(config_path=str(CONFIG_DIR), config_name=command, version_base=VERSION)
        main(job)()
    finally:
        sys.argv = argv
    codes = [file.read_text() for file in place.glob(f"*{EXIT}")]
    return int(set(codes) != {"0"})


def _label(word: str) -> str:
    """A word without the quotes around a path."""
    (override,) = parse([word], sweep=False)
    return f"{override.key}={override.value}" if is_path(override.key) else word


def _check(command: str, overrides: Sequence[Override]) -> None:
    """Check every key against the composed configuration, before Hydra sees it."""
    combinations = list(base_words(command, overrides))
    known = groups(command)
    rest = [override for override in overrides if override.key not in known]
    if rest:
        keys = frozenset().union(*(_keys(command, tuple(words)) for words in combinations))
        check_keys(command, rest, keys)


@functools.cache
def _keys(command: str, words: tuple[str, ...]) -> frozenset[str]:
    """Every key that the configuration has with these choices of groups."""
    return frozenset(_flat(OmegaConf.to_container(_compose(command, words), resolve=False)))


def _compose(command: str, words: Sequence[str]) -> DictConfig:
    try:
        with hydra.initialize_config_dir(config_dir=str(CONFIG_DIR), version_base=VERSION):
            return hydra.compose(config_name=command, overrides=list(words))
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__
        if isinstance(cause, ConfigKeyError):  # a key inside a value, which `check_keys` cannot see
            raise PgdiffError(
                f"`{cause.full_key}` is no setting yet. Put + before the word to add it."
            ) from error
        raise PgdiffError(f"{str(error).strip().splitlines()[0]}.") from error


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise PgdiffError(f"{str(error).strip().splitlines()[0]}.") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _flat(node: Any, prefix: str = "") -> list[str]:
    """Every dotted key, inner nodes included."""
    if not isinstance(node, dict):
        return []
    keys = []
    for name, value in node.items():
        key = f"{prefix}{name}"
        keys += [key, *_flat(value, f"{key}.")]
    return keys
