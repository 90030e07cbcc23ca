"""The arms of the experiment: from which image the reverse process starts.

A start is one function and one entry in this table. What is trained on is the images or their
priors (`config.MADE_OF_PRIORS`); where a start enters is `config.start_point`.
"""

from __future__ import annotations

from collections.abc import Callable

from dipddpm.config import Context, RestorationConfig
from dipddpm.images import ImageSet, blur

Make = Callable[[ImageSet, RestorationConfig, Context], ImageSet]

# The start image S, made of the degraded image (or of its prior); None takes that as it is.
# "noise" has no entry: it starts from no image.
STARTS: dict[str, Make | None] = {
    "degraded": None,
    "dip": None,
    "blur": blur,
}
