"""Training in several processes against training in one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dipddpm.config import (
    Context,
    LoaderConfig,
    NoiseScheduleConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.diffusion import build_unet
from dipddpm.images import TrainingImages, prepare
from dipddpm.parallel import Share
from dipddpm.sources import bundled_objects
from dipddpm.training import TrainedNet, train_ddpm

ROOT = Path(__file__).parents[1]
SEED, SIZE, NUM_IMAGES = 3, 16, 9
UNET = UNetConfig(block_out_channels=(8, 16), attention_levels=(1,), norm_num_groups=4)
PLAIN = TrainingConfig(batch_size=4, learning_rate=1e-3, ema_decay=0.9)
# The last batch of nine images by four is a single one: one process has none of its own.
VARIANTS = {
    "memory": (PLAIN, LoaderConfig()),
    "decode": (replace(PLAIN, batch_size=5), LoaderConfig(loader="decode", num_workers=1)),
    "parts": (replace(PLAIN, gradient_accumulation_steps=2), LoaderConfig(flip="loader")),
}
# Of float32, whose sums are of another order.
TOLERANCE = 1e-5


def trained(variant: str, context: Context) -> TrainedNet:
    """Of three epochs, of which the last two go on from the first."""
    training, loading = VARIANTS[variant]
    encoded = bundled_objects().train[:NUM_IMAGES]
    images: TrainingImages = encoded if loading.loader == "decode" else prepare(encoded, SIZE)
    net = None
    for epochs in (1, 3):
        net = train_ddpm(
            images, SIZE, UNET, NoiseScheduleConfig(), training, context,
            loading=loading, epochs=epochs, resume_from=net,
        )  # fmt: skip
    assert net is not None
    return net


def tensors(net: TrainedNet) -> dict[str, Tensor]:
    averages = {f"ema/{name}": weight for name, weight in net.ema_weights.items()}
    return {"losses": net.losses, **net.weights, **averages}


def as_one_of_several(folder: Path) -> None:
    """What each of the processes does."""
    from accelerate import PartialState  # type: ignore[import-untyped]

    processes = PartialState(cpu=True)
    context = Context(seed=SEED, processes=processes)
    for variant in VARIANTS:
        save_file(
            tensors(trained(variant, context)),
            folder / f"{variant}-{processes.process_index}-of-{processes.num_processes}",
        )
    processes.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [sys.executable, *launch, "-m", "tests.test_parallel", folder],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_train_as_one(folder: Path, variant: str) -> None:
    one = tensors(trained(variant, Context(seed=SEED)))
    first, second = (load_file(folder / f"{variant}-{i}-of-2") for i in range(2))
    assert one.keys() == first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    batch_size = VARIANTS[variant][0].batch_size
    assert len(one["losses"]) == len(first["losses"]) == 3 * -(-NUM_IMAGES // batch_size)
    torch.testing.assert_close(first["losses"], one["losses"], rtol=TOLERANCE, atol=0)
    start = build_unet(UNET, SIZE, SEED).state_dict()
    for prefix in ("", "ema/"):
        moved, apart = (
            torch.cat([(first[prefix + name] - other[name]).flatten() for name in start])
            for other in (start, {name: one[prefix + name] for name in start})
        )
        assert apart.norm() <= 0.002 * moved.norm()


class _OneOf:
    """One of several processes, without the others."""

    def __init__(self, index: int, count: int) -> None:
        self.process_index, self.num_processes = index, count


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("num_rows", range(1, 9))
def test_the_shares_make_the_batch(count: int, num_rows: int) -> None:
    rows = torch.arange(1.0, num_rows + 1)
    processes: list[Any] = [_OneOf(index, count) for index in range(count)]
    shares = [Share(one) for one in processes]
    held = [share.of(rows) for share in shares if share.weight(num_rows)]
    assert torch.cat(held).tolist() == rows.tolist()
    assert all(len(share.of(rows)) for share in shares)
    mean = sum(share.weight(num_rows) * share.of(rows).mean() for share in shares) / count
    torch.testing.assert_close(mean, rows.mean())


def test_several_processes_record_no_graphs() -> None:
    several: Any = _OneOf(0, 2)
    training = replace(PLAIN, cuda_graph=True)
    with pytest.raises(ValueError, match="cuda_graph must be false with 2 processes"):
        train_ddpm(
            prepare(bundled_objects().train[:2], SIZE), SIZE, UNET, NoiseScheduleConfig(), training,
            Context(processes=several), loading=LoaderConfig(), epochs=1,
        )  # fmt: skip


if __name__ == "__main__":
    as_one_of_several(Path(sys.argv[1]))
