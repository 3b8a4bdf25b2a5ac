"""Rows of the tables of `planners.py`: one changed setting of planner or training in each."""

from dataclasses import dataclass

UPDATES = 4000
"""Updates of the model in rows that train one; they compare with the row "4,000 updates"."""
_MODEL = ("~recipe.stages.value", "~recipe.stages.inverse_dynamics")
_VALUE = ("recipe=value",)


@dataclass(frozen=True)
class Row:
    """One changed setting.

    Attributes:
        label: label in the table.
        evaluate: arguments of `pgdiff evaluate`.
        train: arguments of `pgdiff train`; empty if nothing is trained.
        episodes: smaller number of episodes for slow rows.
        to: label of the row to compare with; the first row by default.
        run: label of the row whose training is used.
    """

    label: str
    evaluate: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    episodes: int | None = None
    to: str | None = None
    run: str | None = None


def named(label: str) -> str:
    """Return the folder of a row."""
    return "".join(c if c.isalnum() else "_" for c in label)


def model(label: str, *words: str, evaluate: tuple[str, ...] = ()) -> Row:
    """Return a row that trains another model."""
    steps = f"recipe.stages.model.trainer.steps={UPDATES}"
    to = None if not words else f"{UPDATES:,} updates of the model"
    return Row(label, evaluate, (*_MODEL, steps, *words), to=to)


def value(label: str, *words: str, evaluate: tuple[str, ...] = ()) -> Row:
    """Return a row that trains another value."""
    return Row(label, evaluate, (*_VALUE, *words))


SAMPLING = [
    Row("the recipe"),
    Row("no guide, 1 candidate", ("guide=none", "planner.candidates=1")),
    Row("no gradient, best of 8", ("guide.scale=0",)),
    Row("1 candidate", ("planner.candidates=1",)),
    Row("32 candidates", ("planner.candidates=32",)),
    Row("guide scale 50", ("guide.scale=50",)),
    Row("guide scale 200", ("guide.scale=200",)),
    Row("lambda 0.4", ("guide.td_lambda=0.4",)),
    Row("lambda 1: one value, of the last token", ("guide.td_lambda=1",)),
    Row("guide of the value, not its logarithm", ("guide.transform=none",)),
    Row("2 sampling steps", ("planner.sampling.steps=2",)),
    Row("10 sampling steps", ("planner.sampling.steps=10",)),
    Row(
        "DDIM, 10 equal steps",
        (
            "planner.sampling.solver=ddim",
            "planner.sampling.spacing=uniform",
            "planner.sampling.steps=10",
        ),
    ),
    Row("the present plan among the candidates", ("planner.selection.keep_previous=true",)),
    Row(
        "scale shared out among candidates",
        ("planner.selection.scale_ladder=[1,.1,.2,.35,.5,.75,1,1]",),
    ),
    Row(
        "scale shared out, and plausibility",
        (
            "planner.selection.scale_ladder=[1,.1,.2,.35,.5,.75,1,1]",
            "planner.selection.plausibility={name:denoiser,limit:1.2,features:[0,1]}",
        ),
    ),
]
DRIVING = [
    Row("inverse dynamics, replan every 10"),
    Row("tracker (the environment's)", ("planner.controller=tracker",)),
    Row("replan every 5", ("planner.replanning.every=5",)),
    Row("replan every 15", ("planner.replanning.every=15",)),
    Row("replan every 30", ("planner.replanning.every=30",)),
    Row("open loop", ("planner.replanning.every=null",)),
    Row("warm start at level 0.8", ("planner.replanning.warm_start.level=0.8",)),
    Row("warm start at level 0.5", ("planner.replanning.warm_start.level=0.5",)),
    Row(
        "warm start at 0.5, 2 steps",
        ("planner.replanning.warm_start.level=0.5", "planner.sampling.steps=2"),
    ),
    Row("2 steps", ("planner.sampling.steps=2",)),
]
VALUES = [
    value("value not in log space", "recipe.stages.value.arguments.log_space=false"),
    value("value of velocities too", "recipe.stages.value.arguments.value_features=null"),
    value("value, discount 0.98", "task.discount=0.98"),
    value("value, discount 0.995", "task.discount=0.995"),
    value("value, expectile 0.5", "recipe.stages.value.arguments.expectile=0.5"),
]
MODELS = [
    model(f"{UPDATES:,} updates of the model"),
    model("horizon 8", "task.horizon=8"),
    model("horizon 24", "task.horizon=24"),
    model("epsilon prediction", "diffusion=epsilon"),
    model("width 64", "denoiser.width=64"),
    Row(
        "stride 6, horizon 32",
        (),
        (
            f"recipe.stages.model.trainer.steps={UPDATES}",
            "task.stride=6",
            "task.horizon=32",
        ),
        to=f"{UPDATES:,} updates of the model",
    ),
]
_ARRIVALS = "trained with a goal held at any token"
_HELD = ("planner.goals.tokens=[2,4,6,8,10,12,14,15]",)
GOALS = [
    Row("value of goals"),
    Row("1 candidate", ("planner.candidates=1",)),
    Row("guide scale 10", ("guide.scale=10",)),
    Row("guide scale 100", ("guide.scale=100",)),
    model(f"{UPDATES:,} updates of the model"),
    model(
        _ARRIVALS,
        "recipe.stages.model.arguments.inpainting.patterns=[start,start_arrival]",
        evaluate=("planner.goals.hold=false",),
    ),
    Row(
        "goal held at the last token, 1 candidate, no guide",
        ("guide=none", "planner.candidates=1"),
        run=_ARRIVALS,
    ),
    Row(
        "goal held at eight arrivals, best by the value of goals",
        ("guide.scale=0", *_HELD),
        run=_ARRIVALS,
    ),
    Row("goal held at eight arrivals, and the value's gradient", _HELD, run=_ARRIVALS),
]
ROWS = {
    "medium": [*SAMPLING, *VALUES, *MODELS],
    "goals": GOALS,
    "driving": DRIVING,
    "umaze": [*DRIVING, Row("replan every step", ("planner.replanning.every=1",), episodes=10)],
    "chunks": [
        Row("inverse dynamics, replan every 10", ("planner.controller=inverse_dynamics",)),
        Row("the plan's own actions", ("planner.controller=actions",)),
        Row("tracker (the environment's)", ("planner.controller=tracker",)),
    ],
}
