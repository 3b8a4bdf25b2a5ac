"""Columns of the schedulers that are used in more than one test file."""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
)
from diffusers_oracle import Column, by_sigma, by_time, nonlinear, table_of
from torch import Tensor

from pgdiff.diffusion import Churn, EDMSchedule, NoiseSchedule

TABLE: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def ddpm_column(steps: int, *, variance: str, start: int = 0, **config: Any) -> Column:
    """Return the column of DDPM; fixed_large adds noise even to the clean sample, unless t is 0."""
    kind = config.setdefault("prediction_type", "sample")
    scheduler = DDPMScheduler(variance_type=f"fixed_{variance}", clip_sample=False, **config)
    scheduler.set_timesteps(steps)
    table = table_of(scheduler)
    return by_time(
        scheduler,
        table,
        nonlinear(table),
        to=lambda scheduler, t: scheduler.previous_timestep(t),
        kind=kind,
        start=start,
        quiet_end=variance == "large",
    )


def ddim_column(steps: int, *, eta: float, start: int = 0, **config: Any) -> Column:
    """Return the column of DDIM, which steps from t to t - K // N for every spacing."""
    kind = config.setdefault("prediction_type", "sample")
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **config)
    scheduler.set_timesteps(steps)
    table = table_of(scheduler)
    stride = scheduler.config.num_train_timesteps // steps
    return by_time(
        scheduler,
        table,
        nonlinear(table),
        to=lambda _, t: t - stride,
        kind=kind,
        start=start,
        eta=eta,
    )


def consistency_function(scheduler: LCMScheduler) -> Any:
    """Return the scheduler's consistency function, the identity at clean (Luo et al. 2023)."""
    inner = nonlinear(table_of(scheduler))

    def function(x: Tensor, level: Tensor) -> Tensor:
        time = level[..., None] * scheduler.config.num_train_timesteps - 1
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(time)
        return out * inner(x, level) + skip * x

    return function


def lcm_column(start: int = 0, *, prediction_type: str = "sample", **setting: Any) -> Column:
    """Return the column of LCM, which ends with its estimate at the last timestep, clean."""
    scheduler = LCMScheduler(beta_schedule="linear", beta_end=0.02, prediction_type=prediction_type)
    scheduler.set_timesteps(**setting)
    times = scheduler.timesteps.tolist()
    to = dict(zip(times, [*times[1:], -1], strict=True))
    table = table_of(scheduler)
    return by_time(
        scheduler,
        table,
        nonlinear(table),
        to=lambda _, t: to[t],
        kind=prediction_type,
        start=start,
    )


LCM_SETTINGS = (
    {"num_inference_steps": 4},
    {"num_inference_steps": 10, "original_inference_steps": 100},
    {"timesteps": [999, 759, 499, 259, 19]},
)


def column_of(scheduler: Any, steps: int, **how: Any) -> tuple[NoiseSchedule, Column]:
    """Return the column of a class with a table, and that table."""
    scheduler.set_timesteps(steps)
    table = table_of(scheduler)
    kind = scheduler.config.prediction_type
    return table, by_sigma(scheduler, table, nonlinear(table), kind=kind, **how)


def dpm_column(
    steps: int, *, start: int = 0, order: int = 2, **config: Any
) -> tuple[NoiseSchedule, Column]:
    config = TABLE | {"solver_type": "midpoint", "prediction_type": "sample"} | config
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=order, **config
    )
    return column_of(scheduler, steps, scaled=False, start=start)


def heun_column(steps: int, *, start: int = 0, **config: Any) -> tuple[NoiseSchedule, Column]:
    scheduler = HeunDiscreteScheduler(**TABLE | {"prediction_type": "sample"} | config)
    return column_of(scheduler, steps, scaled=True, calls=2, start=start)


def edm_euler_column(
    steps: int, churn: Churn, *, grid: str = "karras", start: int = 0
) -> tuple[NoiseSchedule, Column]:
    """Return the column of EDM's Euler, which adds the churn inside `step`, after the network.

    It therefore gets the estimate at the churned point, made here by algorithm 2 of the paper.
    """
    scheduler = EDMEulerScheduler(sigma_schedule=grid)
    scheduler.set_timesteps(steps)
    noise_schedule = EDMSchedule()
    denoise = nonlinear(noise_schedule)
    rows = steps - start  # the class divides by the number of steps of its whole list

    def predictor(x: Tensor, sigma: Tensor, noise: Tensor) -> dict[str, Any]:
        within = churn.low <= sigma <= churn.high
        gamma = min(churn.churn / rows, 2**0.5 - 1) if within else 0.0
        raised = sigma * (1 + gamma)
        spread = churn.noise_scale * (raised**2 - sigma**2).sqrt()
        level = noise_schedule.level_at(-2 * raised.log()).reshape(1, 1)
        return {"pred_original_sample": denoise(x + spread * noise, level)}

    return noise_schedule, by_sigma(
        scheduler,
        noise_schedule,
        denoise,
        scaled=False,
        start=start,
        predictor=predictor,
        s_churn=churn.churn * steps / rows,
        s_tmin=churn.low,
        s_tmax=churn.high,
        s_noise=churn.noise_scale,
    )
