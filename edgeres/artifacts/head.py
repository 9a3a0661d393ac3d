"""``Head``: what the outputs of a network are."""

from __future__ import annotations

from edgeres.settings import settings


@settings
class Head:
    """What the outputs of a network are: its task, and whether the graph ends in a sigmoid or softmax.

    ``threshold`` of decisions is from the float network's tuning images, None for a task without one. A classifier's
    prediction is the largest of its ``scored`` outputs; of all where there are none.
    """

    task: str = "classification"
    probabilities: bool = False
    threshold: float | None = None
    scored: tuple[int, ...] = ()
