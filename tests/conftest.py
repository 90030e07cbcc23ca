"""Settings small enough for a test, and the bundled images, opened once."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from dipddpm.config import DataConfig, DIPConfig, NoiseScheduleConfig, TrainingConfig, UNetConfig
from dipddpm.images import ImageSet, prepare
from dipddpm.sources import ImageSource, bundled_objects


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Nets this small gain nothing from threads, and on busy cores they wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _old_objects_stay() -> None:
    """As in a worker: the ledger collects garbage at every stage, but not what was there before."""
    gc.freeze()


@pytest.fixture
def no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of CUDA in whole float32, to be compared with those of the CPU."""
    cudnn: Any = torch.backends.cudnn
    monkeypatch.setattr(cudnn.conv, "fp32_precision", "ieee")


@pytest.fixture(scope="session")
def objects() -> ImageSource:
    return bundled_objects()


@pytest.fixture(scope="session")
def objects16(objects: ImageSource) -> ImageSet:
    """Ten real images, 16 x 16."""
    return prepare(objects.train[:10], 16)


@pytest.fixture(scope="session")
def tiny_data() -> DataConfig:
    return DataConfig(image_size=16, num_images=5, num_held_out=3)


@pytest.fixture(scope="session")
def tiny_dip() -> DIPConfig:
    return DIPConfig(num_iter=3, images_per_fit=2)


@pytest.fixture(scope="session")
def tiny_unet() -> UNetConfig:
    return UNetConfig(block_out_channels=(8, 16), attention_levels=(1,), norm_num_groups=4)


@pytest.fixture(scope="session")
def tiny_schedule() -> NoiseScheduleConfig:
    return NoiseScheduleConfig(num_train_timesteps=50)


@pytest.fixture(scope="session")
def tiny_training() -> TrainingConfig:
    """Ten images are two batches of 4 and one of 2."""
    return TrainingConfig(batch_size=4, learning_rate=1e-3, lr_warmup_steps=3)
