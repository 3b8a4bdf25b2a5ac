"""Pictures of data, training, plans and episodes. Needs the extra `viz`."""

from pgdiff.plotting.animations import denoising_gif, episode_gif
from pgdiff.plotting.coverage import coverage_picture
from pgdiff.plotting.losses import loss_picture
from pgdiff.plotting.plans import comparison_picture, plan_picture

__all__ = [
    "comparison_picture",
    "coverage_picture",
    "denoising_gif",
    "episode_gif",
    "loss_picture",
    "plan_picture",
]
