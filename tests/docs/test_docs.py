"""The pages of notebooks/docs: snippets and commands run, links and tables are right."""

import runpy
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pgdiff.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
sys.path.insert(0, str(Path(__file__).parents[1] / "diffusion"))
sys.path.insert(0, str(Path(__file__).parents[1] / "readme"))
from snippets import anchors, blocks, command, compiled, links, reduced, shell_lines
from tilted import table
from zips import make_model

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "notebooks" / "docs").glob("*.md"))
SNIPPETS = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


def test_the_index_lists_every_page_and_notebook() -> None:
    index = ROOT / "notebooks" / "docs" / "index.md"
    listed = {target.partition("#")[0] for target in links(index.read_text(encoding="utf-8"))}
    notebooks = {f"../{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {page.name for page in PAGES} - {"index.md"} | notebooks <= listed


@pytest.mark.parametrize("page", SNIPPETS, ids=lambda page: page.name)
@pytest.mark.usefixtures("unchecked", "own_registry")
def test_python(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All snippets of a page run in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            exec(compiled(block, str(page)), namespace)


def test_links() -> None:
    """Every target exists, and so does its heading on a page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in links(text):
            path, _, heading = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{page.name}: {target}"
            if heading:
                there = anchors(file.read_text(encoding="utf-8"))
                assert heading in there, f"{page.name}: {target}"


def test_the_solver_of_the_page_is_short() -> None:
    text = (ROOT / "notebooks" / "docs" / "extending.md").read_text(encoding="utf-8")
    (block,) = [block for block in blocks(text) if '@register("solver"' in block.text]
    lines = block.text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("@register"))
    end = next(index for index, line in enumerate(lines) if line.startswith("figures"))
    code = [line for line in lines[start:end] if line.strip()]
    print(f"\nthe solver has {len(code)} lines")
    assert len(code) <= 20


@pytest.mark.slow
def test_commands_of_the_page_on_guides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs: recordings first, then the training of a model, then the others."""
    monkeypatch.chdir(tmp_path)
    for seed, name in ((3, "early"), (0, "agent")):  # agents that do not fall within a plan
        make_model("SAC", gym.make("pgdiff_envs:hopper-v5"), seed=seed).save(f"{name}.zip")
    env = VecNormalize(DummyVecEnv([lambda: gym.make("pgdiff_envs:hopper-v5")]))
    env.reset()
    env.save("vecnormalize.pkl")
    text = (ROOT / "notebooks" / "docs" / "guides.md").read_text(encoding="utf-8")
    lines = shell_lines(text)
    lines.sort(key=lambda line: (" collect " not in line, "recipe=actions" not in line))
    for line in lines:
        words = command(line)
        assert words is not None, line
        words = reduced(words)
        if "task=hopper" in words:  # a maze is recorded faster
            words = [word if word != "steps=12000" else "steps=2000" for word in words]
        assert main(words) == 0, line


@pytest.mark.usefixtures("unchecked", "own_registry")
def test_the_page_on_an_own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the page and its commands, in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = (ROOT / "notebooks" / "docs" / "own_task.md").read_text(encoding="utf-8")
    for block in blocks(text):
        name = block.text.splitlines()[0].removeprefix("# ")
        if block.language in ("python", "yaml"):
            (tmp_path / name).write_text(block.text.replace("range(200)", "range(20)"))
    runpy.run_path("record.py")
    for line in shell_lines(text):
        words = command(line)
        assert words is not None and main(reduced(words)) == 0, line
    monkeypatch.delitem(sys.modules, "my_guides")


def test_the_table_of_guidance_rules_is_what_its_program_prints() -> None:
    text = (ROOT / "notebooks" / "docs" / "results.md").read_text(encoding="utf-8")
    (begin,) = [
        n for n, line in enumerate(text.splitlines()) if "| exact noised objective |" in line
    ]
    shown = [line.split("|")[1:-1] for line in text.splitlines()[begin - 2 : begin + 7]]
    for scale, steps in ((0.01, 10), (1.0, 50)):
        printed = [line.split("|")[1:-1] for line in table([scale], [steps]).splitlines()]
        column = shown[0].index(f" scale {scale:g}, {steps} steps ")
        assert [(row[0], row[column]) for row in shown] == [tuple(row) for row in printed]
