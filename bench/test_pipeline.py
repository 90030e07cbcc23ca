"""What the whole pipeline takes on three small cases, and `import dipddpm`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.conftest import Measure
from dipddpm.config import (
    Context,
    DataConfig,
    DIPConfig,
    OutcomeConfig,
    PipelineConfig,
    SamplingConfig,
    TrainingConfig,
    TrainOn,
)
from dipddpm.pipeline import run_pipeline
from dipddpm.sources import ImageSource

IMAGES = 4


@pytest.mark.benchmark(group="pipeline")
@pytest.mark.parametrize("train_on", ["images", "dip", "blur"])
def test_whole_pipeline(
    measure: Measure, source: ImageSource, context: Context, train_on: TrainOn
) -> None:
    """Four images, priors of 10 iterations, one epoch, four samples of 5 steps, scored."""
    sampling = SamplingConfig(num_inference_steps=5, num_samples=4)
    config = PipelineConfig(
        train_on=train_on,
        data=DataConfig(num_images=IMAGES, num_held_out=4),
        dip=DIPConfig(num_iter=10),
        training=TrainingConfig(batch_size=4),
        outcomes=(OutcomeConfig(epochs=1, sampling=sampling),),
    )
    measure(lambda: list(run_pipeline(config, source, context)), images=IMAGES)


@pytest.mark.benchmark(group="import")
def test_import(measure: Measure) -> None:
    """Of the library, without torch, in a new interpreter."""
    # Found in the same order as here: a comparison puts the library first that it measures.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", "import dipddpm, dipddpm.config"]
    measure(lambda: subprocess.run(command, env=environment, check=True))
