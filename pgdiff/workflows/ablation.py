"""Ablation of guidance: effect of the gradient and of the selection among candidates."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.core.serialization import write_json
from pgdiff.core.validation import PgdiffError
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
from pgdiff.evaluation.strata import extra_metrics

# Added part and its baseline: (row with the part, row without it).
_QUESTIONS = {
    "the gradient, to one candidate": ("gradient", "no_guide"),
    "selection, to no guide": ("selection", "no_guide"),
    "the gradient, to selection": ("both", "selection"),
    "selection, to the gradient": ("both", "gradient"),
}


@dataclass(frozen=True, eq=False)
class Ablation:
    """Four evaluations with the same seeds.

    Attributes:
        evaluations: the rows "no_guide", "gradient", "selection" and "both".
        labels: label of each row in the table.
    """

    evaluations: Mapping[str, Evaluation]
    labels: Mapping[str, str]

    @property
    def unit(self) -> str:
        """Compared figure: "score" if the environment has normalised scores, else "return"."""
        missing = any(result.normalized_scores is None for result in self.evaluations.values())
        return "return" if missing else "score"

    def differences(self) -> dict[str, tuple[float, float, float]]:
        """Return the mean paired difference and its 95 % interval, by question."""
        values = {
            name: result.returns if self.unit == "return" else result.normalized_scores
            for name, result in self.evaluations.items()
        }
        differences = {}
        for question, (with_it, without) in _QUESTIONS.items():
            first, second = (np.asarray(values[name]) for name in (with_it, without))
            differences[question] = paired_difference(first, second)
        return differences

    def further_differences(self) -> dict[str, dict[str, Comparison]]:
        """Return the differences of further metrics, by metric and question.

        A metric that a pair does not have is left out, for example the first touch if no episode
        of both rows arrives.
        """
        differences: dict[str, dict[str, Comparison]] = {}
        for question, (with_it, without) in _QUESTIONS.items():
            first, second = self.evaluations[with_it], self.evaluations[without]
            for metric in extra_metrics([first, second]):
                with suppress(PgdiffError):
                    difference = compare(first, second, metric=metric)
                    differences.setdefault(metric, {})[question] = difference
        return differences

    def table(self) -> str:
        """Return a text table of the four rows, followed by the effect of each part."""
        rows = {self.labels[name]: result for name, result in self.evaluations.items()}
        lines = [
            comparison_table(rows),
            next(iter(rows.values())).seeds,
            "",
            f"effect of adding, in {self.unit} [95 %]",
        ]
        width = max(map(len, _QUESTIONS))
        for question, (mean, low, high) in self.differences().items():
            lines.append(f"  {question.ljust(width)}  {mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        for metric, differences in self.further_differences().items():
            lines += ["", f"effect of adding, in {metric} [95 %]"]
            lines += [f"  {name.ljust(width)}  {value}" for name, value in differences.items()]
        return "\n".join(lines)

    def write(
        self, folder: str | os.PathLike[str], *, settings: Mapping[str, Any] | None = None
    ) -> Path:
        """Write `ablation.json`, and for each row a JSON file with every episode."""
        target = Path(folder)
        for name, result in self.evaluations.items():
            result.to_json(target / f"ablation_{name}.json")
        differences = {
            question: {"mean": mean, "interval": [low, high], "level": 0.95, "unit": self.unit}
            for question, (mean, low, high) in self.differences().items()
        }
        content = {
            "settings": dict(settings or {}),
            "rows": {
                name: {"label": self.labels[name], **result.summary()}
                for name, result in self.evaluations.items()
            },
            "differences": differences,
            "further_differences": {
                metric: {question: value.to_dict() for question, value in questions.items()}
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
        no_guide: planner with one candidate and no guide.
        gradient: planner with one candidate, guided by the gradient.
        selection: planner that selects among many candidates, with gradient scale 0.
        both: planner that selects among many candidates guided by the gradient.
        make_env: makes one environment.
        episodes: number of episodes of each planner.
        seed: seed of the first episode.
        parallel: maximum number of environments at a time.
        progress: True to show progress bars.
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
