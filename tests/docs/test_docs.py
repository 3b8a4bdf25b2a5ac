"""The pages of notebooks/docs keep their word: every snippet runs, every link leads somewhere."""

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
names = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def test_there_is_a_page_on_extending() -> None:
    assert "extending.md" in [page.name for page in PAGES]


@names
@pytest.mark.usefixtures("unchecked", "own_registry")
def test_python(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All snippets of a page, in the reader's order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            exec(compiled(block, str(page)), namespace)


@names
def test_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [
        target
        for target in links(text)
        if (target.startswith("#") and target[1:] not in anchors(text))
        or not (page.parent / target.partition("#")[0]).exists()
    ]
    assert missing == []


def test_the_solver_of_the_page_is_short() -> None:
    text = (ROOT / "notebooks" / "docs" / "extending.md").read_text(encoding="utf-8")
    (block,) = [block for block in blocks(text) if '@register("solver"' in block.text]
    lines = block.text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("@register"))
    end = next(index for index, line in enumerate(lines) if line.startswith("figures"))
    code = [line for line in lines[start:end] if line.strip()]
    print(f"\nthe solver has {len(code)} lines")
    assert len(code) <= 20


def test_commands_of_the_page_on_guides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command: recordings first, then the run of a model, then what stands on it."""
    monkeypatch.chdir(tmp_path)
    for seed, name in ((3, "early"), (0, "agent")):  # which stay up for longer than a plan
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


def test_the_table_of_guidance_rules_is_what_its_program_prints() -> None:
    text = (ROOT / "notebooks" / "docs" / "guides.md").read_text(encoding="utf-8")
    (begin,) = [n for n, line in enumerate(text.splitlines()) if "| exact noised energy |" in line]
    shown = [line.split("|")[1:-1] for line in text.splitlines()[begin - 2 : begin + 7]]
    for scale, steps in ((0.01, 10), (1.0, 50)):
        found = [line.split("|")[1:-1] for line in table([scale], [steps]).splitlines()]
        column = shown[0].index(f" scale {scale:g}, {steps} steps ")
        assert [(row[0], row[column]) for row in shown] == [tuple(row) for row in found]
