"""Controllers: from where one is and the next way-point to an action."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


@runtime_checkable
class Controller(Protocol):
    """Drives to way-points; `InverseDynamics` is one, a maze's `tracker()` another."""

    def act(
        self,
        observation: Float[np.ndarray, "batch observation"],
        waypoint: Float[np.ndarray, "batch observation"],
        steps_left: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, "batch action"]:
        """Action for each environment.

        Args:
            observation: where each is, in raw units.
            waypoint: where each is to be.
            steps_left: environment steps until then, at least 1.
        """
        ...
