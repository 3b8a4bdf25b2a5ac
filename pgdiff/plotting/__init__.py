"""Pictures of data, training, plans, values and episodes. Requires the extra `viz`."""

from pgdiff.plotting.animations import denoising_gif, episode_gif
from pgdiff.plotting.coverage import coverage_picture
from pgdiff.plotting.explanation import explanation_picture
from pgdiff.plotting.failures import ShownEpisode, failures_picture, worst
from pgdiff.plotting.fidelity import fidelity_picture, marginals_picture
from pgdiff.plotting.levels import level_gif, level_picture
from pgdiff.plotting.losses import loss_picture
from pgdiff.plotting.plans import comparison_picture, plan_picture, reach_picture
from pgdiff.plotting.scores import score_picture
from pgdiff.plotting.values import value_picture

__all__ = [
    "ShownEpisode",
    "comparison_picture",
    "coverage_picture",
    "denoising_gif",
    "episode_gif",
    "explanation_picture",
    "failures_picture",
    "fidelity_picture",
    "level_gif",
    "level_picture",
    "loss_picture",
    "marginals_picture",
    "plan_picture",
    "reach_picture",
    "score_picture",
    "value_picture",
    "worst",
]
