"""Mean, interquartile mean and optimality gap with intervals, by rliable; JSON in and out."""

import json
import sys

import numpy as np
import rliable.library
import rliable.metrics


def main() -> None:
    request = json.load(sys.stdin)

    def statistics(x: np.ndarray) -> np.ndarray:
        return np.array(
            [
                rliable.metrics.aggregate_mean(x),
                rliable.metrics.aggregate_iqm(x),
                rliable.metrics.aggregate_optimality_gap(x, request["gamma"]),
            ]
        )

    np.random.seed(1)  # noqa: NPY002 - rliable draws from the global state
    points, bounds = rliable.library.get_interval_estimates(
        {"x": np.array(request["scores"])}, statistics, reps=4000
    )
    names = ("mean", "iqm", "optimality_gap")
    found = {
        name: (float(points["x"][i]), *map(float, bounds["x"][:, i]))
        for i, name in enumerate(names)
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
