"""A sample is a function of its noise: replays of recorded sampling."""

from typing import Any

import pytest
import torch
from toys import tiny_model, walk

from pgdiff import Sampling
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    Churn,
    DPMSolver,
    Guidance,
    Heun,
    HistoryGuidance,
    IndependentLevels,
    Inpainting,
    Measurement,
    MonteCarlo,
    NoiseSource,
    Pyramid,
    Resample,
    Solver,
)

MODEL = tiny_model(
    walk(),
    denoiser=TransformerConfig(width=16, depth=1, heads=2, attention="causal"),
    level_distribution=IndependentLevels(),
)
BATCH = 4
GUIDE = Guidance(
    objective=lambda x, level: -x[:, 3:].square().sum(dim=(1, 2)), gradient_at="denoiser", scale=0.3
)
SOLVERS: list[Solver] = [DDIM(), DDIM(eta=1.0), DDPM(), DPMSolver(), Heun(), Churn()]


def given(*tokens: int) -> Any:
    """Return a mask of whole tokens, and values for them."""
    mask = torch.zeros(1, 6, 4, dtype=torch.bool)
    mask[:, tokens] = True
    return mask, torch.linspace(-0.5, 0.5, BATCH * 24).reshape(BATCH, 6, 4)


def source(**options: Any) -> NoiseSource:
    return NoiseSource.from_seeds([3, 4], batch=BATCH, **options)


def draw(noise: NoiseSource, case: dict[str, Any], **changes: Any) -> torch.Tensor:
    options = {"steps": 2, "level_schedule": Pyramid(), **case, **changes}
    arguments = {key: options.pop(key) for key in ("guides", "measurement") if key in options}
    inpainting = Inpainting(*given(0, 1))
    sampling = Sampling(**options)
    return MODEL.sample(BATCH, sampling, inpainting=inpainting, seed=noise, **arguments).x


PAST = HistoryGuidance.fractional(1.5, level=0.4)
MEASURED: dict[str, Any] = {"measurement": Measurement(*given(4), 0.3), "history": PAST}
GUIDED: dict[str, Any] = {"guides": [GUIDE]}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "futures": GUIDED | MEASURED | {"monte_carlo": MonteCarlo(futures=2)},
    "shared futures": GUIDED | {"monte_carlo": MonteCarlo(futures=2, shared=True)},
    "particles": GUIDED | {"particles": Resample()},
}


def cases(solver: Solver) -> dict[str, dict[str, Any]]:
    """Return cases by name; particles need a solver that draws noise."""
    ancestral = isinstance(solver, DDPM) or getattr(solver, "eta", 0.0) > 0
    return {name: case for name, case in CASES.items() if ancestral or name != "particles"}


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: repr(solver)[:12])
def test_samples_are_a_function_of_their_noise(solver: Solver) -> None:
    """A replay repeats a recorded sampling bit for bit; a perturbed record gives other samples."""
    for name, case in cases(solver).items():
        noise = source(record=True)
        recorded = draw(noise, case, solver=solver)
        assert torch.equal(recorded, draw(noise.replay(), case, solver=solver)), name
        values = [value.clone() for value in noise.values]
        values[0][: BATCH // 2] += 0.1  # the noise from which the first group starts
        other = draw(noise.replay(values), case, solver=solver)
        assert not torch.equal(other[:2], recorded[:2]), name
        if name != "particles":  # whose later numbers may be drawn for another group
            assert torch.equal(other[2:], recorded[2:]), name


def test_records_change_nothing_and_serve_several_replays() -> None:
    case = CASES["futures"] | {"solver": Churn()}
    noise = source(record=True)
    recorded = draw(noise, case)
    assert torch.equal(recorded, draw(source(), case))
    kept = [value.clone() for value in noise.values]
    assert torch.equal(recorded, draw(noise.replay(), case))
    assert all(map(torch.equal, noise.values, kept))
    # Noise that is drawn after the start acts on the samples too.
    later = [kept[0], *(value + 0.1 for value in kept[1:])]
    assert not torch.equal(recorded, draw(noise.replay(later), case))


def test_a_replay_with_other_settings_is_refused() -> None:
    case = CASES["shared futures"] | {"solver": DDPM()}
    noise = source(record=True)
    draw(noise, case)
    for changes, message in (
        ({"steps": 1}, "draws fewer numbers. Got . tensors too many. Replay with the settings"),
        ({"steps": 3}, "Got no more numbers. Replay with the settings of the recording"),
        ({"solver": DDIM()}, "tensors too many"),
        ({"horizon": 5}, r"next of shape \[4, 5, 4\]. Got \[4, 6, 4\]"),
        ({"monte_carlo": None}, "tensors too many"),
        ({"history": PAST}, "Got no more numbers"),
    ):
        with pytest.raises(PgdiffError, match=f"`values` must hold the noise of .*{message}"):
            draw(noise.replay(), case, **changes)
    other = NoiseSource.from_seeds([3, 4], batch=6, record=True)
    with pytest.raises(PgdiffError, match="`seed` must be a NoiseSource for the batch of 4"):
        draw(other, case)
    with pytest.raises(PgdiffError, match="`record` must be True"):
        source().replay()
    particles = CASES["particles"] | {"solver": DDPM()}
    with pytest.raises(PgdiffError, match="`values` must hold the noise"):
        draw(noise.replay(), particles)


def test_guides_may_change_between_replays() -> None:
    """A sample is a function of its noise and of the settings."""
    case: dict[str, Any] = {"solver": DDPM()}
    noise = source(record=True)
    recorded = draw(noise, case)
    guided = draw(noise.replay(), case, guides=[GUIDE])
    assert not torch.equal(guided, recorded)
    assert torch.equal(guided, draw(source(), case, guides=[GUIDE]))
