"""Settings of a planner: wrong types, and settings that do not fit each other."""

from typing import Any

import numpy as np
import pytest
from toys import flat_planner, tiny_model, walk

from pgdiff import Planner, Replanning, WarmStart
from pgdiff.core.validation import PgdiffError
from pgdiff.data import ReturnCondition
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import DDIM, IndependentLevels, KarrasSpacing, MonteCarlo, Pyramid

MODEL = tiny_model(walk())


def test_parts_of_the_wrong_type_are_named() -> None:
    cases: list[tuple[str, Any, str]] = [
        ("level_schedule", Pyramid, "a LevelSchedule or .*. Got <class"),
        ("solver", DDIM, "a Solver. Got <class"),
        ("solver", "ddim", "a Solver. Got 'ddim'"),
        ("spacing", KarrasSpacing, "a Spacing. Got <class"),
        ("monte_carlo", 4, "a MonteCarlo. Got 4"),
    ]
    for name, wrong, message in cases:
        with pytest.raises(PgdiffError, match=f"`{name}` must be {message}"):
            flat_planner(MODEL, **{name: wrong})
    for name in ("sampling", "replanning", "selection", "goals", "filter"):
        for other in (3, {}, WarmStart()):
            settings: Any = {name: other}
            with pytest.raises(PgdiffError, match=f"`{name}` must be a"):
                Planner(MODEL, **settings)
    with pytest.raises(PgdiffError, match=r"`warm_start` must be a WarmStart\. Got 0.5"):
        Replanning(warm_start=0.5)  # type: ignore[arg-type]


def test_replaced_arguments_keep_the_others() -> None:
    planner = Planner(MODEL, candidates=3, replanning=Replanning(every=None), seed=4, device="cpu")
    other = planner.replace(candidates=2)
    assert (other.candidates, other.seed, other.replanning) == (2, 4, Replanning(every=None))
    assert other.model is planner.model and planner.candidates == 3


def test_a_weight_is_not_yet_classifier_free_guidance() -> None:
    model = tiny_model(walk(), conditions=[ReturnCondition()])
    weight: Any = 2.0
    with pytest.raises(PgdiffError, match=r"`classifier_free` must be a ClassifierFree\. Got 2"):
        flat_planner(model, condition={"return": 1.0}, classifier_free=weight)


def test_futures_begin_at_whole_measured_tokens() -> None:
    """Measurements of only a part of a token are refused before any plan."""
    settings: dict[str, Any] = {
        "level_distribution": IndependentLevels(),
        "denoiser": TransformerConfig(width=16, depth=1, heads=2, attention="causal"),
    }
    seen = walk()
    parts = tiny_model(seen, fields=("observations", "action_chunks"), **settings)
    for level in ({"observation_level": 0.1}, {"missing_level": 0.1}):
        with pytest.raises(PgdiffError, match="`monte_carlo` must be None with `noise_level`"):
            flat_planner(parts, monte_carlo=MonteCarlo(), **level)
    for fields in (("observations",), ("observations", "previous_actions")):
        whole = tiny_model(seen, fields=fields, **settings)
        planner = flat_planner(whole, monte_carlo=MonteCarlo(), observation_level=0.1, candidates=1)
        assert np.isfinite(planner.plan(np.zeros(4, np.float32)).observations).all()


def test_a_history_without_effect_is_warned_of() -> None:
    model = tiny_model(
        walk(),
        level_distribution=IndependentLevels(),
        denoiser=TransformerConfig(width=16, depth=1, heads=2, attention="causal"),
    )
    with pytest.warns(UserWarning, match="`history_tokens` has no effect"):
        flat_planner(model, context=2)
