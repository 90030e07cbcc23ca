"""The arms of the experiment: what is trained on, and from which image the reverse process starts.

A target or a start is one recipe in one table here; where a start enters is `config.start_point`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dipddpm.config import Context, RestorationConfig
from dipddpm.images import ImageSet, blur

Make = Callable[[ImageSet, RestorationConfig, Context], ImageSet]


@dataclass(frozen=True)
class Target:
    """What a net is trained on: the source's images, or the priors fitted to them."""

    of: Literal["images", "priors"]


TARGETS = {
    "images": Target("images"),
    "dip": Target("priors"),
}


@dataclass(frozen=True)
class Start:
    """The start image S: `make` of the degraded image or of its prior; None takes it as it is."""

    of: Literal["degraded", "priors"]
    make: Make | None = None


# "noise" is no recipe: it starts from no image.
STARTS = {
    "degraded": Start("degraded"),
    "dip": Start("priors"),
    "blur": Start("degraded", make=blur),
}
