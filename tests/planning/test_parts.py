"""Parts of a planner that are none, or classes of such."""

from typing import Any

import numpy as np
import pytest
from toys import tiny_model, walk

from pgdiff import Planner
from pgdiff.data import ReturnCondition
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import DDIM, IndependentLevels, KarrasSpacing, MonteCarlo, Pyramid
from pgdiff.validation import PgdiffError

MODEL = tiny_model(walk())


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("schedule", Pyramid, "a LevelSchedule. Got <class"),
        ("solver", DDIM, "a Solver. Got <class"),
        ("solver", "ddim", "a Solver. Got 'ddim'"),
        ("spacing", KarrasSpacing, "a Spacing. Got <class"),
        ("monte_carlo", 4, "a MonteCarlo. Got 4"),
    ],
)
def test_a_part_of_the_planner(name: str, part: Any, message: str) -> None:
    with pytest.raises(PgdiffError, match=f"`{name}` must be {message}"):
        Planner(MODEL, **{name: part})


def test_a_weight_is_not_yet_classifier_free_guidance() -> None:
    model = tiny_model(walk(), conditions=[ReturnCondition()])
    weight: Any = 2.0
    with pytest.raises(PgdiffError, match=r"`classifier_free` must be a ClassifierFree\. Got 2"):
        Planner(model, condition={"return": 1.0}, classifier_free=weight)


def test_futures_begin_at_whole_measured_tokens() -> None:
    """Where what is measured is only a part of a token, they are refused before any plan."""
    settings: dict[str, Any] = {
        "levels": IndependentLevels(),
        "denoiser": TransformerConfig(width=16, depth=1, heads=2, attention="causal"),
    }
    seen = walk()
    parts = tiny_model(seen, fields=("observations", "action_chunks"), **settings)
    for level in ({"observation_level": 0.1}, {"missing_level": 0.1}):
        with pytest.raises(
            PgdiffError, match="`monte_carlo` must be None with `observation_level`"
        ):
            Planner(parts, monte_carlo=MonteCarlo(), **level)
    for fields in (("observations",), ("observations", "previous_actions")):
        whole = tiny_model(seen, fields=fields, **settings)
        planner = Planner(whole, monte_carlo=MonteCarlo(), observation_level=0.1, candidates=1)
        assert np.isfinite(planner.plan(np.zeros(4, np.float32)).observations).all()


def test_a_past_that_nothing_is_seen_with_is_warned_of() -> None:
    model = tiny_model(
        walk(),
        levels=IndependentLevels(),
        denoiser=TransformerConfig(width=16, depth=1, heads=2, attention="causal"),
    )
    with pytest.warns(UserWarning, match="`context` has no effect"):
        Planner(model, context=2)
