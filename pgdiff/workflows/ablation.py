"""What the gradient and the choice among candidates are each worth, alone and together."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.evaluation import (
    Agent,
    Comparison,
    Evaluation,
    compare,
    comparison_table,
    evaluate,
    paired_difference,
)
from pgdiff.evaluation.rollouts import MakeEnv
from pgdiff.evaluation.strata import further_metrics
from pgdiff.validation import PgdiffError
from pgdiff.workflows.files import write_json

# What is added, to what: (row with it, row without it).
_QUESTIONS = {
    "the gradient, to one candidate": ("gradient", "no_guide"),
    "selection, to no guide": ("selection", "no_guide"),
    "the gradient, to selection": ("both", "selection"),
    "selection, to the gradient": ("both", "gradient"),
}


@dataclass(frozen=True, eq=False)
class Ablation:
    """Four evaluations from the same seeds.

    Attributes:
        evaluations: "no_guide", "gradient", "selection" and "both".
        labels: what each is called in the table.
    """

    evaluations: Mapping[str, Evaluation]
    labels: Mapping[str, str]

    @property
    def unit(self) -> str:
        """What is compared: normalised scores where the environment has them, else returns."""
        none = any(found.normalized_scores is None for found in self.evaluations.values())
        return "return" if none else "score"

    def differences(self) -> dict[str, tuple[float, float, float]]:
        """Mean difference within pairs of episodes, with its 95 % interval, by question."""
        values = {
            name: found.returns if self.unit == "return" else found.normalized_scores
            for name, found in self.evaluations.items()
        }
        found = {}
        for question, (with_it, without) in _QUESTIONS.items():
            first, second = (np.asarray(values[name]) for name in (with_it, without))
            found[question] = paired_difference(first, second)
        return found

    def further_differences(self) -> dict[str, dict[str, Comparison]]:
        """The same of the metrics beside the score: by metric, then by question.

        A metric that a pair does not have, as the first touch of two rows that never arrive
        together, is left out.
        """
        found: dict[str, dict[str, Comparison]] = {}
        for question, (with_it, without) in _QUESTIONS.items():
            first, second = self.evaluations[with_it], self.evaluations[without]
            for metric in further_metrics([first, second]):
                with suppress(PgdiffError):
                    difference = compare(first, second, metric=metric)
                    found.setdefault(metric, {})[question] = difference
        return found

    def table(self) -> str:
        """The four rows, and below them what each part adds."""
        rows = {self.labels[name]: found for name, found in self.evaluations.items()}
        lines = [
            comparison_table(rows),
            next(iter(rows.values())).seeds,
            "",
            f"what is added, in {self.unit} [95 %]",
        ]
        width = max(map(len, _QUESTIONS))
        for question, (mean, low, high) in self.differences().items():
            lines.append(f"  {question.ljust(width)}  {mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        for metric, differences in self.further_differences().items():
            lines += ["", f"what is added, in {metric} [95 %]"]
            lines += [f"  {name.ljust(width)}  {found}" for name, found in differences.items()]
        return "\n".join(lines)

    def write(
        self, folder: str | os.PathLike[str], *, settings: Mapping[str, Any] | None = None
    ) -> Path:
        """Write `ablation.json`, and one JSON file with every episode for each row."""
        target = Path(folder)
        for name, found in self.evaluations.items():
            found.to_json(target / f"ablation_{name}.json")
        differences = {
            question: {"mean": mean, "interval": [low, high], "level": 0.95, "unit": self.unit}
            for question, (mean, low, high) in self.differences().items()
        }
        content = {
            "settings": dict(settings or {}),
            "rows": {
                name: {"label": self.labels[name], **found.summary()}
                for name, found in self.evaluations.items()
            },
            "differences": differences,
            "further_differences": {
                metric: {question: found.to_dict() for question, found in questions.items()}
                for metric, questions in self.further_differences().items()
            },
        }
        return write_json(target / "ablation.json", content)


def ablation(
    *,
    no_guide: Agent,
    gradient: Agent,
    selection: Agent,
    both: Agent,
    make_env: MakeEnv,
    episodes: int,
    seed: int = 0,
    parallel: int = 50,
    progress: bool = True,
) -> Ablation:
    """Evaluate four planners on the same episodes.

    Args:
        no_guide: one candidate and no guide.
        gradient: one candidate, steered by the gradient.
        selection: the best of many candidates, the gradient's scale 0.
        both: the best of many candidates that the gradient steers.
        make_env: makes one environment.
        episodes: how many episodes each.
        seed: of the first episode.
        parallel: how many environments at most run side by side.
        progress: whether to show progress bars.
    """
    agents = {"no_guide": no_guide, "gradient": gradient, "selection": selection, "both": both}
    many = getattr(both, "candidates", "many")
    labels = {
        "no_guide": "no guide, 1 candidate",
        "gradient": "gradient, 1 candidate",
        "selection": f"no gradient, best of {many}",
        "both": f"gradient, best of {many}",
    }
    evaluations = {
        name: evaluate(
            agent, make_env, episodes=episodes, seed=seed, parallel=parallel, progress=progress
        )
        for name, agent in agents.items()
    }
    return Ablation(evaluations, labels)
