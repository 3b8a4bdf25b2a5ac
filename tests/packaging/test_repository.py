"""Rules for the whole repository, in addition to the checks of the linters."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "configs",
    "constraints.txt",
    "envs",
    "notebooks",
    "pgdiff",
    "pyproject.toml",
    "tests",
}

# A path on one machine, instead of a relative path.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/|/tmp/\w|index-url")

OPTIONAL = ("imageio", "matplotlib", "mujoco", "PIL", "stable_baselines3", "tensorboard")


def files(*suffixes: str) -> list[Path]:
    """Return files that exist and are tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = [ROOT / name for name in listed.split("\0") if name]
    found = [name for name in names if name.is_file()]
    return [name for name in found if not suffixes or name.suffix in suffixes]


def sources() -> list[Path]:
    """Return the Python files of the two packages."""
    places = (ROOT / "pgdiff", ROOT / "envs")
    return [file for file in files(".py") if any(file.is_relative_to(place) for place in places)]


def test_the_top_level_is_short() -> None:
    names = {file.relative_to(ROOT).parts[0] for file in files()}
    assert {name for name in names if not name.startswith(".")} - TOP_LEVEL == set()
    assert {"pgdiff", "envs", "tests", "pyproject.toml", "Makefile"} <= names


def test_no_text_names_a_place_on_one_machine() -> None:
    found = []
    for file in files():
        data = file.read_bytes()
        if b"\0" in data[:4096] or file == Path(__file__):
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the lines that could run code from a file, with the reason."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [str(node.module)]
            for module in modules:
                if module.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "shelve"}:
                    yield node.lineno, f"imports {module}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in {"eval", "exec", "yaml.load", "yaml.unsafe_load"}:
            yield node.lineno, f"calls {called}"
        if called == "torch.load" and keywords.get("weights_only") != "True":
            yield node.lineno, "calls torch.load without weights_only=True"
        if keywords.get("weights_only") == "False" or keywords.get("allow_pickle") == "True":
            yield node.lineno, f"lets {called} unpickle"


def test_only_the_model_reads_its_layout_and_normaliser() -> None:
    """All other modules use the codec."""
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in sources()
        if not file.is_relative_to(ROOT / "pgdiff" / "model")
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if re.search(r"(model|codec)\.(layout|normalizer)\b", line)
    ]
    assert found == []


OWN_PROCESSES = {("training", "batches.py"), ("core", "processes.py")}


def test_nothing_that_is_loaded_can_run_code() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {fault}"
        for file in sources()
        for line, fault in faults(ast.parse(file.read_text(encoding="utf-8")))
        # A training's own processes send batches to each other; none of them comes from a file.
        if (file.parent.name, file.name) not in OWN_PROCESSES or fault != "imports pickle"
    ]
    assert found == []


def test_the_rule_finds_what_it_forbids_and_lets_the_rest_through() -> None:
    for code in (
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ):
        assert len(list(faults(ast.parse(code)))) >= 1, code
    code = "model.eval()\ntorch.load(path, weights_only=True)\nnp.load(path)"
    assert list(faults(ast.parse(code))) == []


def imported(code: str) -> set[str]:
    """Return the top-level modules that are loaded after `code`, in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_no_module_of_the_library_loads_an_optional_package() -> None:
    # Only the command line may import Hydra.
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in sources()
        if file.is_relative_to(ROOT / "pgdiff")
    ]
    library = [m for m in modules if not m.startswith("pgdiff.cli") and "__main__" not in m]
    loaded = imported("import " + ", ".join(library))
    assert "pgdiff" in loaded
    assert loaded & {*OPTIONAL, "hydra", "omegaconf", "pgdiff_envs"} == set()


def test_every_required_package_is_pinned() -> None:
    """A new machine thus gets the tested environment; no index is named."""
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.lstrip().startswith("#")
    ]
    pins = [Requirement(line) for line in lines]
    assert all(str(pin.specifier).startswith("==") and pin.url is None for pin in pins)
    assert "torch==2.13.0" in lines
    pinned = {canonicalize_name(pin.name) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = [Requirement(text) for part in extras.values() for text in part]
    required += [Requirement(text) for text in project["dependencies"]]
    distribution = canonicalize_name(project["name"])
    assert distribution == "pgdiff-rl"
    for one in required:
        name = canonicalize_name(one.name)
        assert name in pinned or (name == distribution and one.extras <= extras.keys()), one


def test_no_text_installs_a_strangers_package() -> None:
    """`pgdiff` without `-rl` is another project's distribution."""
    wrong = re.compile(r"pip install[^`\n]*[\s'\"]pgdiff(?![\w-])|\bpgdiff\[[a-z]")
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in files(".py", ".md", ".toml", ".ipynb")
        if file != Path(__file__)
        for match in wrong.finditer(file.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_ci_runs_what_make_test_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text("utf-8").splitlines()
    dry = subprocess.run(
        ["make", "--dry-run", "test"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for tool in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "lint-imports",
        "--jaxtyping-packages",
    ):
        assert tool in dry
