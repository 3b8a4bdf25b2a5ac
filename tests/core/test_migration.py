"""Configurations of older formats, brought to the present names."""

from typing import Any

from pgdiff.core.migration import migrate_learner, migrate_run

GOAL = {"name": "goal", "position": [1, 0]}


def test_goal_features_have_their_present_name() -> None:
    condition = {"kind": "condition", **GOAL}
    for number in (1, 2):
        learner, _ = migrate_learner({"name": "goal_value", "position": [1, 0]}, {}, number=number)
        assert learner == {"name": "goal_value", "goal_features": [1, 0]}
        model: dict[str, Any] = {"name": "trajectory_diffusion", "conditions": [condition]}
        for name in ("schedule", "prediction", "layout", "normalizer", "denoiser"):
            model[name] = {"name": "x"}
        learner, _ = migrate_learner(model, {}, number=number)
        (migrated,) = learner["conditions"]["conditioners"]
        assert migrated == {"kind": "condition", "name": "goal", "goal_features": [1, 0]}
    stages = [
        {"learner": "goal_value", "arguments": {"position": [1, 0]}},
        {"learner": "trajectory_diffusion", "arguments": {"conditions": [GOAL, "return"]}},
    ]
    guides = {"goal": {"position": [1, 0], "width": 0.5}}
    for number in (1, 2, 3):
        content = {"format": number, "planner": {}, "guides": guides, "stages": stages}
        run = migrate_run(content)
        value, model = (stage["arguments"] for stage in run["stages"])
        assert value == {"goal_features": [1, 0]}
        assert model["conditions"]["conditioners"] == [
            {"name": "goal", "goal_features": [1, 0]},
            "return",
        ]
        assert run["guides"]["goal"] == {"name": "goal", "goal_features": [1, 0], "width": 0.5}
