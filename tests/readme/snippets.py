"""The testable content of README.md: fenced blocks, commands, links; and smaller budgets."""

import ast
import re
import shlex
from dataclasses import dataclass

# Words added to a command, so that it takes seconds. Commands without a rule run unchanged.
EXTRA = {
    "collect": ["steps=12000"],
    "train": [
        *("trainer.steps=20", "trainer.batch_size=8"),
        "denoiser.width=16",
    ],
    "plan": ["planner.candidates=3", "planner.sampling.steps=2"],
    "compare": ["rows=4", "points=100", "positions=3"],
    "generate": ["transitions=400", "batch=32", "sampling.steps=2"],
    "evaluate": ["episodes=2", "record=0", "planner.candidates=3", "planner.sampling.steps=2"],
}

# An argument goes before the rule for its command: one candidate stays one.
KEPT = ("planner.candidates=1", "planner.sampling.steps=1", "episodes=1")

# Numbers in Python that are lowered to these if larger: (function, keyword): number.
BUDGETS = {
    ("Trainer", "steps"): 20,
    ("collect", "steps"): 12_000,
    ("Sampling", "steps"): 2,
    ("Planner", "candidates"): 4,
    ("replace", "candidates"): 4,
    ("load_planner", "candidates"): 4,
    ("evaluate", "episodes"): 2,
    ("evaluate_policy", "n_eval_episodes"): 1,
}

# Lines of a shell that no test runs.
LEFT_OUT = ("make ", "git ", "cd ", "pip ", "python -m pip ", "python -m venv ", "tensorboard ")

SHELLS = ("sh", "bash", "shell", "console")
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("" for none), its text, and the first line of the text."""

    language: str
    text: str
    line: int


def blocks(markdown: str) -> list[Block]:
    """Return every fenced block, in order."""
    found, fence, language, begin = [], "", "", 0
    lines = markdown.splitlines()
    for number, line in enumerate(lines, start=1):
        match = FENCE.match(line)
        if not fence and match:
            fence, language, begin = match[1], match[2].lower(), number + 1
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            found.append(Block(language, "\n".join(lines[begin - 1 : number - 1]), begin))
            fence = ""
    if fence:
        raise ValueError(f"the block of line {begin} is never closed")
    return found


def prose(markdown: str) -> str:
    """Return the text outside fenced blocks and code spans."""
    lines = markdown.splitlines()
    for block in blocks(markdown):
        for number in range(block.line - 1, block.line - 1 + len(block.text.splitlines())):
            lines[number] = ""
    return re.sub(r"`[^`\n]*`", "", "\n".join(lines))


def links(markdown: str) -> list[str]:
    """Return relative targets of links and pictures, and anchors (`#...`) on the page."""
    text = prose(markdown)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", text)
    targets += re.findall(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)", text, flags=re.MULTILINE)
    targets += re.findall(r"<(?:img|a)\b[^>]*?\b(?:src|href)=[\"']([^\"']+)", text)
    return [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:", target)]


def anchors(markdown: str) -> set[str]:
    """Return the anchors of the headings, by GitHub's rule."""
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", prose(markdown), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def shell_lines(markdown: str) -> list[str]:
    """Return the lines of all shell blocks: continued lines joined, prompts removed.

    In a console block, only the text after a prompt is a command.
    """
    found = []
    for block in blocks(markdown):
        if block.language not in SHELLS:
            continue
        lines = [line.strip() for line in block.text.replace("\\\n", " ").splitlines()]
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        found += [line for line in lines if line and not line.startswith("#")]
    return found


def command(line: str) -> list[str] | None:
    """Return the words after `pgdiff` without comments; None for another program."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):  # settings of the shell's environment
        words = words[1:]
    return words[1:] if words and words[0].rpartition("/")[2] == "pgdiff" else None


def reduced(words: list[str]) -> list[str]:
    """Return the command on a small budget."""
    extra = EXTRA.get(words[0], []) if words else []
    kept = {word.partition("=")[0] for word in words if word in KEPT}
    return [*words, *(word for word in extra if word.partition("=")[0] not in kept)]


class Shrink(ast.NodeTransformer):
    """Lowers the numbers that `BUDGETS` names."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = called(node)
        for keyword in node.keywords:
            limit = BUDGETS.get((name, keyword.arg or ""))
            value = keyword.value
            if limit is not None and isinstance(value, ast.Constant) and value.value > limit:
                keyword.value = ast.copy_location(ast.Constant(limit), value)
        return node


def called(node: ast.Call) -> str:
    """Return the last part of the called name."""
    return ast.unparse(node.func).rpartition(".")[2]


def compiled(block: Block, file: str):
    """Compile a Python block on a small budget; tracebacks name the lines of `file`."""
    tree = ast.increment_lineno(Shrink().visit(ast.parse(block.text)), block.line - 1)
    return compile(ast.fix_missing_locations(tree), file, "exec")


def first_arguments(block: Block, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (called name, first argument if a text) for every call of one of these names."""
    return [
        (called(node), node.args[0].value)
        for node in ast.walk(ast.parse(block.text))
        if isinstance(node, ast.Call)
        and called(node) in names
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]
