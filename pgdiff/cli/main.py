"""Entry point of the command line: the first word is a command, the others are its settings."""

import argparse
import importlib
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from pgdiff.core.openmp import fit_threads_to_cores, let_threads_sleep
from pgdiff.core.validation import PgdiffError, nearest
from pgdiff.version import __version__

# Of each command: the module of `pgdiff.cli`, whether it takes a plain path, and its help line.
COMMANDS = {
    "collect": ("collect", False, "record an environment's expert, or agents, into a data file"),
    "check": ("check", True, "list the problems of a data file or a Minari data set"),
    "convert": ("convert", False, "convert, join or shorten data files and Minari data sets"),
    "train": ("train", False, "train all stages of a recipe and write them to a run folder"),
    "plan": ("plan", False, "make one plan with a run and draw pictures of it"),
    "evaluate": ("evaluate", False, "score a run in its environment: return, success, speed"),
    "generate": ("generate", False, "sample a synthetic data set from a run's model"),
    "compare": ("compare", False, "compare synthetic data sets with real rows and the simulator"),
    "info": ("info", True, "describe a data file, a saved network or a run folder"),
}

HELP = ("-h", "--help")
VERSION = "--version"
SHOW = ("-c", "--cfg")
"""Options that print the settings instead of running the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: words after the program's name; None for `sys.argv`.

    Returns:
        0 for success, 1 for an invalid input or setting, 2 for an unknown command, 130 for an
        interruption, 143 for a training that SIGTERM ended (128 + the signal's number, as in a
        shell).
    """
    let_threads_sleep()  # both calls must come before PyTorch is imported
    fit_threads_to_cores()
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if not words or words[0] in HELP:
        parser.print_help()
        return 0 if words else 2
    if words[0] == VERSION:
        print(f"pgdiff {__version__}")
        return 0
    options = parser.parse_args(words[:1])
    command: str = options.command
    if command not in COMMANDS:
        choices = nearest(command, COMMANDS)
        print(f"error: the command must be {choices} Got '{command}'.", file=sys.stderr)
        return 2
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(command, words[1:])
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        if str(error) and command == "train":  # the error reports the progress of the training
            kept = [word for word in words[1:] if word.split("=")[0] not in ("resume", "overwrite")]
            print(
                f"to continue: {shlex.join(['pgdiff', 'train', *kept, 'resume=true'])}",
                file=sys.stderr,
            )
        return 128 + int(getattr(error, "number", signal.SIGINT))
    except BrokenPipeError:  # the program that reads our output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {line}" for name, (_, _, line) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="pgdiff",
        usage="pgdiff COMMAND [SETTING=VALUE ...]",
        description="Policy-guided trajectory diffusion for reinforcement learning.",
        epilog="commands:\n" + "\n".join(lines) + "\n\n"
        "pgdiff COMMAND --help shows the settings of a command.\n"
        "pgdiff --version shows the version.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    return parser


def _run(command: str, words: list[str]) -> int:
    name, takes_path, line = COMMANDS[command]
    from pgdiff.cli.own_parts import read_own_parts, read_plugins

    if takes_path:
        return _run_with_path(command, read_plugins(words))
    words, show = _split_show(words)
    words = read_own_parts(command, words)
    if any(word in HELP for word in words):
        from pgdiff.cli.help import settings_help

        print(settings_help(command, line, words))
        return 0
    module: Any = importlib.import_module(f"pgdiff.cli.{name}")
    from pgdiff.cli.hydra_config import as_yaml, is_sweep, settings, sweep
    from pgdiff.cli.own_parts import check_registered_names

    if is_sweep(words):
        return sweep(command, words, module)
    prepare = getattr(module, "prepare", None)
    chosen = settings(command, words if prepare is None else prepare(words, sweep=False))
    check_registered_names(chosen, words)
    if show:
        print(as_yaml(chosen), end="")
        return 0
    return int(module.run(chosen))


def _run_with_path(command: str, words: list[str]) -> int:
    name, _, line = COMMANDS[command]
    if any(word in HELP for word in words):
        from pgdiff.cli.help import path_help

        print(path_help(command, line))
        return 0
    if len(words) != 1:
        raise PgdiffError(f"`pgdiff {command}` takes one path. Got {len(words)} words.")
    return int(importlib.import_module(f"pgdiff.cli.{name}").run(words[0]))


def _split_show(words: list[str]) -> tuple[list[str], bool]:
    """Return the words without `--cfg job`, and whether they contain it."""
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in SHOW:
            value = value if equals else " ".join(words[index + 1 : index + 2])
            if value != "job":
                raise PgdiffError(f"`{option}` must be 'job'. Got '{value}'.")
            return words[:index] + words[index + (1 if equals else 2) :], True
    return words, False


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
