"""Commands, help and exit codes."""

import dataclasses
import re
import subprocess
import sys

import pgdiff.cli.check as check_command
from pgdiff.cli.main import COMMANDS
from pgdiff.diffusion import Sampling
from pgdiff.runs.load import SETTINGS


def test_help_lists_the_commands_with_one_line_each(pgdiff) -> None:
    result = pgdiff("--help")
    assert result.code == 0
    lines = [line.strip() for line in result.out.splitlines()]
    for name, (_, _, line) in COMMANDS.items():
        assert any(text.startswith(name) and text.endswith(line) for text in lines)
    for later in ("bench",):
        assert later not in result.out


def test_help_needs_neither_torch_nor_hydra() -> None:
    code = (
        "import sys; from pgdiff.cli import main; main(['--help']); main(['collect', '--help']); "
        "print(sorted({'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(pgdiff) -> None:
    import pgdiff as package

    result = pgdiff("--version")
    assert (result.code, result.out) == (0, f"pgdiff {package.__version__}\n")


def test_no_command(pgdiff) -> None:
    assert pgdiff().code == 2


def test_unknown_command(pgdiff) -> None:
    result = pgdiff("trian")
    assert result.code == 2
    assert "Did you mean 'train'? Got 'trian'." in result.error


def test_every_command_has_help(pgdiff) -> None:
    for command in COMMANDS:
        result = pgdiff(command, "--help")
        assert result.code == 0
        assert result.out.startswith(f"usage: pgdiff {command} ")


def test_help_describes_every_setting_of_the_classes(pgdiff) -> None:
    """The lines are generated from the dataclasses, so that a new field is a new setting."""
    plan = pgdiff("plan", "--help").out
    for prefix, classes in (("planner.", SETTINGS), ("sampling.", {"": Sampling})):
        text = plan if prefix == "planner." else pgdiff("generate", "--help").out
        assert text.count(f"  {prefix}") == len(set(re.findall(rf"  {prefix}([\w.]+):", text)))
        for group, cls in classes.items():
            for field in dataclasses.fields(cls):
                name = f"{prefix}{group}.{field.name}" if group else f"{prefix}{field.name}"
                (line,) = [line for line in text.splitlines() if line.startswith(f"  {name}:")]
                assert len(line.partition("  # ")[2]) > 10, line
    assert "planner.candidates:  # number of plans that are sampled for each environment" in plan
    assert "  sampling.solver: {name: churn, churn: 80.0" in text  # with the default value
    assert "(churn, consistency, ddim, ddpm, dpm_solver, heun)" in text


def test_help_shows_settings_and_choices(pgdiff) -> None:
    out = pgdiff("train", "--help").out
    assert "data: null  # data/<task>.hdf5" in out
    assert "trainer.batch_size: null" in out
    assert "recipe=strided, one of: actions, chunks, cloning, " in out
    assert "multi2d-large-v1" in out
    assert "  real: null  # recording" in pgdiff("compare", "--help").out


def test_help_shows_the_settings_of_what_is_chosen(pgdiff) -> None:
    """Of the chosen recipe, of what it extends, and of the parts that it prefers."""
    out = pgdiff("train", "recipe=actions", "seed=3", "--help").out
    assert "\nrecipe=actions, one of: " in out and "  fields: [observations, actions]" in out
    assert "inverse_dynamics" not in out.partition("\nrecipe=actions")[2].partition("\n\n")[0]
    assert "denoiser=transformer, one of" in out
    out = pgdiff("train", "recipe=diffuser", "--help").out
    assert "denoiser=temporal_unet, one of" in out and "recipe.name: diffuser" in out
    assert "  defaults:" not in out
    out = pgdiff("train", "recipe=chunks", "denoiser=causal", "--help").out
    assert "fields: [observations, action_chunks]" in out and "denoiser=causal, one of" in out
    assert "recipe=chunks extends recipe=strided" in out and "learner: transition_value" in out
    assert "learner: td3_bc" in out  # the agent, which is a recipe's
    assert "policy.  # " not in out
    assert "guide=critic, one of" in pgdiff("evaluate", "guide=critic", "--help").out
    refused = pgdiff("train", "recipe=stridd", "--help")
    assert refused.code == 1 and "Did you mean 'strided'" in refused.error


def test_an_interruption_is_130(pgdiff, monkeypatch) -> None:
    def interrupt(path: str) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(check_command, "run", interrupt)
    result = pgdiff("check", "a.hdf5")
    assert (result.code, result.err.strip()) == (130, "interrupted")


def test_a_fault_is_one_line(pgdiff, monkeypatch) -> None:
    for error in (ValueError("bad value"), PermissionError("not yours")):

        def fail(path: str, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr(check_command, "run", fail)
        result = pgdiff("check", "a.hdf5")
        assert (result.code, result.error) == (1, f"error: {error}")


def test_a_path_is_one_word(pgdiff) -> None:
    for words in (["check"], ["info", "a", "b"]):
        result = pgdiff(*words)
        assert result.code == 1
        assert "takes one path" in result.error


def test_python_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgdiff", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
