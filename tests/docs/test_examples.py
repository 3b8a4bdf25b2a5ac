"""The examples of the docstrings run, and every public class has one."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import pgdiff
import pgdiff_envs

PACKAGES = (
    "agents",
    "core",
    "critics",
    "data",
    "denoisers",
    "diffusion",
    "dynamics",
    "evaluation",
    "guides",
    "model",
    "nn",
    "planning",
    "plotting",
    "runs",
    "synthesis",
    "testing",
    "training",
    "workflows",
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


@pytest.mark.parametrize("name", [*(f"pgdiff.{name}" for name in PACKAGES), "pgdiff_envs"])
@pytest.mark.usefixtures("own_registry")
def test_examples_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    package = pgdiff_envs if name == "pgdiff_envs" else importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for module in modules(package):
        for example in doctest.DocTestFinder().find(module, module.__name__):
            runner.run(example)
    assert runner.failures == 0, capsys.readouterr().out


def test_every_public_class_has_an_example() -> None:
    missing = []
    for name in PACKAGES:
        package = importlib.import_module(f"pgdiff.{name}")
        for public in getattr(package, "__all__", ()):
            found = getattr(package, public)
            if inspect.isclass(found) and ">>>" not in (inspect.getdoc(found) or ""):
                missing.append(f"pgdiff.{name}.{public}")
    assert missing == []
    assert pgdiff.__all__
