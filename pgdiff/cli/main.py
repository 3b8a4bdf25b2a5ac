"""The first word is the command; the rest are its settings."""

import argparse
import importlib
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from pgdiff.threads import fit_threads_to_cores, let_threads_sleep
from pgdiff.validation import PgdiffError, nearest
from pgdiff.version import __version__

# Command: module of `pgdiff.cli` that has its `run`, whether it takes a plain path, and one line.
COMMANDS = {
    "collect": ("collect", False, "record a task's own expert into a data file"),
    "check": ("check", True, "list the faults of a data file or a Minari data set"),
    "convert": ("convert", False, "write a data file or a Minari data set as the other"),
    "train": ("train", False, "train every stage of a recipe into a run folder"),
    "plan": ("plan", False, "make one plan of a run, with pictures of it"),
    "evaluate": ("evaluate", False, "act in the environment: score, interval, success, speed"),
    "generate": ("generate", False, "write a synthetic data set, sampled by a run's model"),
    "compare": ("compare", False, "check synthetic data sets against real rows and the simulator"),
    "info": ("info", True, "say what a data file, a saved network or a run folder holds"),
}

HELP = ("-h", "--help")
VERSION = "--version"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after the program's name; those of the process if None.

    Returns:
        0 where all went well, 1 where the input or a setting is at fault, 2 where there is no such
        command, 130 where it was interrupted, 143 where a training was ended by SIGTERM (as in a
        shell, 128 + the signal's number).
    """
    let_threads_sleep()  # these two before a command imports PyTorch
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
        if str(error) and command == "train":  # it says itself where it stands
            kept = [word for word in words[1:] if word.split("=")[0] not in ("resume", "overwrite")]
            print(
                f"go on: {shlex.join(['pgdiff', 'train', *kept, 'resume=true'])}", file=sys.stderr
            )
        return 128 + int(getattr(error, "number", signal.SIGINT))
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
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
        epilog="commands:\n" + "\n".join(lines) + "\n\npgdiff COMMAND --help shows its settings,\n"
        "pgdiff --version the version.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    return parser


def _run(command: str, words: list[str]) -> int:
    name, takes_path, line = COMMANDS[command]
    if any(word in HELP for word in words):
        from pgdiff.cli.help import path_help, settings_help

        print(path_help(command, line) if takes_path else settings_help(command, line, words))
        return 0
    module: Any = importlib.import_module(f"pgdiff.cli.{name}")
    if takes_path:
        if len(words) != 1:
            raise PgdiffError(f"`pgdiff {command}` takes one path. Got {len(words)} words.")
        return int(module.run(words[0]))
    from pgdiff.cli.compose import is_sweep, settings, sweep

    if is_sweep(words):
        return sweep(command, words, module)
    prepare = getattr(module, "prepare", None)
    if prepare is not None:
        words = prepare(words, sweep=False)
    return int(module.run(settings(command, words)))


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
