"""What does a Deep Image Prior buy a DDPM? The pipeline: priors, training, sampling, scores.

Names are imported when they are first used: torch and diffusers take seconds to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dipddpm.config import (
    VERSION,
    Context,
    DataConfig,
    DIPConfig,
    LoaderConfig,
    NoiseScheduleConfig,
    OutcomeConfig,
    PipelineConfig,
    RestorationConfig,
    SamplingConfig,
    ScoringConfig,
    TrainingConfig,
    UNetConfig,
)

if TYPE_CHECKING:
    from dipddpm.images import ImageSet
    from dipddpm.pipeline import Outcome, run_pipeline
    from dipddpm.sources import ImageSource, open_source

__version__ = VERSION
_LAZY = {
    "ImageSet": "dipddpm.images",
    "ImageSource": "dipddpm.sources",
    "Outcome": "dipddpm.pipeline",
    "open_source": "dipddpm.sources",
    "run_pipeline": "dipddpm.pipeline",
}
__all__ = [
    "Context",
    "DIPConfig",
    "DataConfig",
    "ImageSet",
    "ImageSource",
    "LoaderConfig",
    "NoiseScheduleConfig",
    "Outcome",
    "OutcomeConfig",
    "PipelineConfig",
    "RestorationConfig",
    "SamplingConfig",
    "ScoringConfig",
    "TrainingConfig",
    "UNetConfig",
    "open_source",
    "run_pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
