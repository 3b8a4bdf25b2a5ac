"""README.md is right: every command and every snippet runs, and every link has a target."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from pgdiff.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
sys.path.insert(0, str(Path(__file__).parent))
from snippets import (
    LEFT_OUT,
    anchors,
    blocks,
    command,
    compiled,
    first_arguments,
    links,
    reduced,
    shell_lines,
)
from zips import make_model

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
PAGE = ROOT / "notebooks" / "docs" / "command_line.md"
SHELL = f"{TEXT}\n{PAGE.read_text(encoding='utf-8')}"
"""The commands of the README, then those of the page on the command line."""
COMMANDS = ("collect", "check", "train", "plan", "evaluate", "info", "generate", "compare")


def demo_lines() -> list[str]:
    """Return the commands of `make demo`."""
    # Make only prints them; with -o it regards the set-up as done.
    listed = subprocess.run(
        ["make", "--dry-run", "-o", "setup", "demo"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [line for line in listed.splitlines() if command(line)]


def run(lines: list[str], capsys: pytest.CaptureFixture[str] | None = None) -> None:
    """Run command lines in this process, in the present folder, on a small budget."""
    for line in lines:
        words = command(line)
        assert words is not None
        code = main(reduced(words))
        errors = "" if capsys is None else capsys.readouterr().err
        assert code == 0, f"{line}\n{errors}"


@pytest.fixture(autouse=True)
def minari_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder in which `make demo` was run on a small budget, with an agent and data."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(demo_lines())
        make_model("SAC", gym.make("pgdiff_envs:hopper-v5")).save("agent.zip")
        run(["pgdiff collect task=hopper policy=agent.zip out=runs/demo/hopper-medium.hdf5"])
    yield folder


def test_make_demo(made: Path) -> None:
    words = [command(line)[0] for line in demo_lines()]
    assert list(dict.fromkeys(words)) == ["collect", "train", "plan", "evaluate"]
    assert list(made.rglob("*.hdf5"))
    assert list(made.rglob("run.json"))
    assert list(made.rglob("*.png"))


def test_every_line_of_a_shell_is_run_or_known() -> None:
    unknown = [
        line
        for line in shell_lines(SHELL)
        if command(line) is None and not f"{line} ".startswith(LEFT_OUT)
    ]
    assert unknown == [], "run them here, or add them to LEFT_OUT"


def test_every_command_is_shown() -> None:
    words = [command(line) for line in shell_lines(SHELL)]
    assert set(COMMANDS) <= {shown[0] for shown in words if shown}


@pytest.fixture(scope="module")
def after_readme(made: Path) -> Path:
    """Return the folder in which the commands of the README were run, in the reader's order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        run([line for line in shell_lines(TEXT) if command(line)])
    return made


def test_commands(after_readme: Path) -> None:
    assert (after_readme / "runs" / "weak" / "evaluation.json").is_file()


@pytest.mark.slow
def test_commands_of_the_page(
    after_readme: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of the page that the README does not have, on the results of the latter."""
    monkeypatch.chdir(after_readme)
    capsys.readouterr()
    known = [command(line) for line in shell_lines(TEXT)]
    page = shell_lines(PAGE.read_text(encoding="utf-8"))
    run([line for line in page if command(line) and command(line) not in known], capsys)


def place(path: Path, source: Path) -> None:
    """Copy the results of `make demo` to the place where a snippet looks for them."""
    if path.is_absolute() or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)


def test_python(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = [block for block in blocks(TEXT) if block.language == "python"]
    assert snippets
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in snippets:
        for name, path in first_arguments(block, ("load_episodes", "load_planner", "Policy")):
            run_folder = made / "runs/demo/run"
            source = run_folder if name == "load_planner" else next(made.rglob(Path(path).name))
            place(Path(path), source)
        exec(compiled(block, str(README)), namespace)


def test_the_readme_is_short() -> None:
    assert len(TEXT) < 8000


def test_links() -> None:
    missing = [
        target
        for target in links(TEXT)
        if (target.startswith("#") and target[1:] not in anchors(TEXT))
        or not (ROOT / target.partition("#")[0]).exists()
    ]
    assert missing == []


SAMPLE = """
# A sample: of it

[here](#a-sample-of-it), [there](docs/there.md "title"), <img src='pictures/one.png' width=3>,
[out](https://example.org) and `[no](link)`. See [the list][list].

[list]: docs/list.md

```console
$ OMP_NUM_THREADS=1 pgdiff collect \\
    steps=7  # a comment
1,000 steps/s
$ make demo
```

~~~sh
# only a comment
.venv/bin/pgdiff evaluate planner.candidates=1
pgdiff info some/where
~~~

```python
load_episodes("a.hdf5"); seen = Trainer(steps=20_000, width=99, batch=8), Trainer(steps=3)
```

```
[not](a/link)
```
"""


def test_what_is_found_in_a_page() -> None:
    assert [block.language for block in blocks(SAMPLE)] == ["console", "sh", "python", ""]
    assert set(links(SAMPLE)) == {
        *("#a-sample-of-it", "docs/there.md", "docs/list.md", "pictures/one.png"),
    }
    assert anchors(SAMPLE) == {"a-sample-of-it"}
    found = [command(line) for line in shell_lines(SAMPLE)]
    assert found == [
        ["collect", "steps=7"],
        None,
        ["evaluate", "planner.candidates=1"],
        ["info", "some/where"],
    ]
    assert reduced(["collect", "steps=7"]) == ["collect", "steps=7", "steps=12000"]
    assert "planner.candidates=3" not in reduced(["evaluate", "planner.candidates=1"])
    assert reduced(["info", "some/where"]) == ["info", "some/where"]


def test_budgets_in_python() -> None:
    (block,) = [block for block in blocks(SAMPLE) if block.language == "python"]
    assert first_arguments(block, ("load_episodes",)) == [("load_episodes", "a.hdf5")]
    namespace: dict[str, object] = {"load_episodes": str, "Trainer": dict}
    exec(compiled(block, "page"), namespace)
    assert namespace["seen"] == ({"steps": 20, "width": 99, "batch": 8}, {"steps": 3})
    assert SAMPLE.splitlines()[block.line - 1].startswith("load_episodes")
