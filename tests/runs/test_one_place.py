"""A new setting of a planner is written in one place: a field of its dataclass."""

import dataclasses

import pytest

from pgdiff.cli import generated
from pgdiff.core.registry import register
from pgdiff.planning import Replanning
from pgdiff.runs import load


@pytest.mark.usefixtures("own_registry")
def test_a_field_is_a_setting_of_runs_and_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    longer = dataclasses.make_dataclass(
        "Replanning",
        [("dummy", int, dataclasses.field(default=0))],
        bases=(Replanning,),
        frozen=True,
        kw_only=True,
    )
    text = "    Attributes:\n        dummy: a number without effect.\n"
    longer.__doc__ = (Replanning.__doc__ or "").replace("    Attributes:\n", text)
    register("replanning", "replanning_with_dummy")(longer)
    assert generated.SETTINGS is load.SETTINGS
    monkeypatch.setitem(load.SETTINGS, "replanning", longer)

    plain = load.planner_defaults({})["replanning"]
    assert plain["dummy"] == 0
    assert {key: plain[key] for key in ("every", "lookahead", "warm_start")} == {
        "every": 10,
        "lookahead": 1,
        "warm_start": None,
    }
    changed = load.planner_defaults({"replanning": {"dummy": 3}})
    assert changed["replanning"]["dummy"] == 3
    assert load.planner_arguments(changed)["replanning"] == longer(dummy=3)
    load.check_planner({"replanning": {"dummy": 3}})

    assert generated.generated_groups()["planner"]["replanning"]["dummy"] == generated.LEFT_OUT
    lines = generated.generated_help("planner").splitlines()
    assert "replanning.dummy:  # a number without effect" in lines


def test_every_setting_has_a_description() -> None:
    for group in ("planner", "sampling"):
        for line in generated.generated_help(group).splitlines():
            name, _, description = line.partition("  # ")
            assert description.strip(), f"`{name}` must be described in its class's docstring"
