"""Settings small enough for a test, the bundled images, and commands that do not outlive it."""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dipddpm.config import DataConfig, DIPConfig, NoiseScheduleConfig, TrainingConfig, UNetConfig
from dipddpm.images import ImageSet, prepare
from dipddpm.sources import ImageSource, bundled_objects
from tests.processes import Background, Start, send


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Nets this small gain nothing from threads, and on busy cores they wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _with_cuda(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module", autouse=True)
def _old_objects_stay() -> None:
    """As in a worker: the ledger collects garbage at every stage, but not what was there before."""
    gc.freeze()


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
    # The attention that diffusers gives a net, so that plain loops have its bits.
    return TrainingConfig(batch_size=4, learning_rate=1e-3, lr_warmup_steps=3, attention="sdpa")


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts `python -m bench`; what still lives of it when the test is over, is killed."""
    running: list[Background] = []

    def start(*arguments: str | Path, **more: Any) -> Background:
        running.append(Background(*arguments, **more))
        return running[-1]

    yield start
    for background in running:
        for process in background.living():
            send(process, signal.SIGKILL)
        background.process.communicate()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray on this machine: a head and a node beside it, each with one CPU."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # What they unpack, they unpack here; Ray's own files need a shorter path.
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    from ray.cluster_utils import Cluster

    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()
