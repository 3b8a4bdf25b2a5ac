"""Public signatures: the number of arguments of the main functions, and forbidden names."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pgdiff

ROOT = Path(pgdiff.__file__).parent

MOST = {
    "Planner": 13,
    "TrajectoryDiffusion.sample": 9,
    "TrajectoryDiffusion.from_episodes": 7,
    "generate": 11,
}
"""Greatest number of arguments, without `self` or `cls`."""

OLD = {
    "Known",
    "Observed",
    "Past",
    "PlanMemory",
    "Previous",
    "Push",
    "Steered",
    "Steering",
    "Watched",
    "arrivals",
    "energy",
    "explain_plan",
    "follow",
    "hold_goal",
    "keep_plan",
    "mend",
    "missing_observation_level",
    "observation_level",
    "replan_every",
    "resample",
    "scale_factors",
    "slow",
    "told",
    "warm_share",
}
"""Names that no public class or function has, as its name or as that of an argument."""

OLD_OF = {
    "guides.Policy": {"at", "normalize", "schedule", "tokens", "weight"},
    "guides.Value": {"at", "normalize", "schedule", "tokens", "trace", "weight"},
    "TransitionValue.from_episodes": {"follow", "slow", "target", "trace"},
    "Planner": {"classifier_free", "clip", "context", "horizon", "keep", "levels", "schedule"},
    "TrajectoryDiffusion": {"condition_dropout", "known", "layout", "levels", "position", "rest"},
    "TrajectoryDiffusion.from_episodes": {"known", "levels", "position", "rest", "schedule"},
    "TrajectoryDiffusion.sample": {"known", "observed", "schedule", "generators", "guidance"},
    "TrajectoryDiffusion.log_likelihood": {"known", "observed"},
    "InpaintingPatterns": {"known", "position", "rest"},
    "DiffusionProcess": {"levels", "schedule"},
    "generate": {"batch_size", "compile", "steps", "task", "threads"},
    "guides.Goal": {"position"},
    "GoalValue": {"position"},
    "rollout": {"context", "known", "observed", "schedule"},
}
"""Names that these classes and functions do not take; others may use them."""


def public() -> Iterator[tuple[str, str, Any]]:
    """Yield module, name and object of everything in an `__all__` of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        if "__all__" not in path.read_text(encoding="utf-8"):
            continue
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        module = importlib.import_module(name)
        for item in getattr(module, "__all__", ()):
            yield name, item, getattr(module, item)


def arguments(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []  # a module, a value, or a class without a signature


def found(path: str) -> Any:
    item: Any = pgdiff
    for name in path.split("."):
        item = getattr(item, name)
    return item


def test_the_main_functions_take_few_arguments() -> None:
    for path, most in MOST.items():
        names = [name for name in arguments(found(path)) if name not in ("self", "cls")]
        assert 0 < len(names) <= most, f"{path} takes {len(names)}: {', '.join(names)}"


def test_no_public_name_or_argument_is_an_old_one() -> None:
    wrong = []
    for module, name, item in public():
        if not str(getattr(item, "__module__", "pgdiff")).startswith("pgdiff"):
            continue
        places = {name: item}
        if inspect.isclass(item):
            members = {n: m for n, m in vars(item).items() if not n.startswith("_")}
            places |= {f"{name}.{n}": getattr(m, "__func__", m) for n, m in members.items()}
        for place, function in places.items():
            used = {place.rpartition(".")[2], *(arguments(function) if callable(function) else ())}
            wrong += [f"{module}: {place} has `{old}`" for old in sorted(used & OLD)]
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_the_main_classes_have_no_argument_of_before() -> None:
    for path, old in OLD_OF.items():
        assert not old & set(arguments(found(path))), path


def test_names_in_all_are_strings_of_the_source() -> None:
    """A reader, and `public`, can thus find them."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (names,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    assert sorted(ast.literal_eval(names)) == sorted(pgdiff.__all__)
