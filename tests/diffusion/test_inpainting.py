import pytest
import torch

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import Inpainting
from pgdiff.diffusion.inpainting import PATTERNS, pattern_masks


def test_whole_tokens_are_clean_and_partly_known_ones_keep_their_level() -> None:
    mask = torch.tensor([[[True, True], [True, False], [False, False]]])
    known = Inpainting(mask, torch.full((1, 3, 2), 7.0))
    assert known.tokens.tolist() == [[True, False, False]]
    level = torch.tensor([[0.5, 0.5, 0.25], [1.0, 0.75, 0.0]])
    assert known.levels(level).tolist() == [[0.0, 0.5, 0.25], [0.0, 0.75, 0.0]]
    held = known.hold(torch.zeros(2, 3, 2))
    assert held.tolist() == [[[7.0, 7.0], [7.0, 0.0], [0.0, 0.0]]] * 2


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named() -> None:
    mask = torch.ones(1, 3, 2, dtype=torch.bool)
    with pytest.raises(
        PgdiffError, match=r"same shape, or the mask a batch of 1. Got \[1, 3, 2\] and \[1, 3, 1\]"
    ):
        Inpainting(mask, torch.zeros(1, 3, 1))
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(PgdiffError, match="`values` must be finite"):
            Inpainting(mask, torch.full((1, 3, 2), wrong))
    with pytest.raises(PgdiffError, match=r"`mask` must have dtype bool. Got torch.float32"):
        Inpainting(mask.float(), torch.zeros(1, 3, 2))
    with pytest.raises(PgdiffError, match=r"`values` must have shape \[batch, .* Got \[3, 2\]"):
        Inpainting(mask[0], torch.zeros(3, 2))
    with pytest.raises(PgdiffError, match=r"`values` must be a Tensor\. Got 0\.0"):
        Inpainting(mask, 0.0)  # type: ignore[arg-type]
    Inpainting(~mask, torch.full((1, 3, 2), float("nan")))


def test_patterns() -> None:
    masks = {
        name: pattern_masks(name, tokens=3, features=4, observation=[0, 1, 2], goal=[0, 1])
        for name in PATTERNS
    }
    start = [[True, True, True, False], [False] * 4, [False] * 4]
    goal = [True, True, False, False]
    assert masks["none"].tolist() == [[[False] * 4] * 3]
    assert masks["start"].tolist() == [start]
    assert masks["start_goal"].tolist() == [[*start[:2], goal]]
    assert masks["start_arrival"].tolist() == [[start[0], goal, start[2]], [*start[:2], goal]]
    with pytest.raises(
        PgdiffError, match=r"`patterns?` must be one of .* Did you mean 'start_goal'"
    ):
        pattern_masks("startgoal", tokens=3, features=4, observation=[0], goal=[0])
