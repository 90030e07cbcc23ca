from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dipddpm.config import Context, DIPConfig
from dipddpm.dip import Priors, fit, fit_priors, join
from dipddpm.images import ImageSet, prepare, take
from dipddpm.metrics import psnr
from dipddpm.nets import PaperNet
from dipddpm.sources import ImageSource


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net_of(*seeds: int, dtype: torch.dtype = torch.float64) -> PaperNet:
    net = PaperNet(len(seeds))
    net.initialise([seeded(seed) for seed in seeds])
    return net.to(dtype)


def test_a_batched_fit_is_the_fits_one_by_one() -> None:
    # In float64, where rounding cannot hide a coupling of the nets; 25 steps of Adam.
    z = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=seeded(1))
    target = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=seeded(2))
    together = net_of(0, 1, 2, 3)
    fit(together, z, target, num_iter=25, learning_rate=0.01)
    outputs = together(z).detach()
    for i in range(4):
        alone = net_of(i)
        fit(alone, z, target[i : i + 1], num_iter=25, learning_rate=0.01)
        assert (alone(z).detach() - outputs[i : i + 1]).abs().max().item() <= 1e-12
    assert (outputs - target).square().mean() < 0.8 * target.var()  # it did fit


def test_a_fit_is_a_plain_loop() -> None:
    z = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=seeded(1))
    target = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=seeded(2))
    net = net_of(0)
    plain = copy.deepcopy(net.layers)
    priors = fit(net, z, target, num_iter=20, learning_rate=0.01)

    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = nn.functional.mse_loss(plain(z), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Outputs and losses are kept in float32: a rounding of 6e-8 of the value, doubled to [-1, 1].
    assert (priors.outputs - (2 * plain(z).detach() - 1)).abs().max().item() <= 1.2e-7
    assert torch.allclose(
        priors.losses[:, 0].double(), torch.tensor(losses).double(), rtol=1e-7, atol=0
    )


@pytest.fixture(scope="module")
def five(objects16: ImageSet) -> ImageSet:
    return take(objects16, 0, 5)


def in_chunks(images: ImageSet, size: int, dip: DIPConfig, context: Context) -> list[Priors]:
    return [
        fit_priors(take(images, i, min(i + size, len(images))), dip, context, first_index=i)
        for i in range(0, len(images), size)
    ]


def test_a_fit_does_not_depend_on_who_shares_its_batch(five: ImageSet) -> None:
    dip, context = DIPConfig(num_iter=10), Context(seed=4)
    ones, twos, all_five = (in_chunks(five, size, dip, context) for size in (1, 2, 5))
    expected = join(*ones).pixels
    # The groups of a convolution are added up in another order; Adam's first steps divide by the
    # gradient's own size, so a rounding of 1e-7 grows a hundredfold in ten of them (to 7e-6 here).
    for parts in (twos, all_five):
        assert (join(*parts).pixels - expected).abs().max().item() < 1e-4
        losses = torch.cat([part.losses for part in parts], dim=1)
        assert torch.allclose(losses, torch.cat([part.losses for part in ones], dim=1), rtol=1e-3)
    # and it is no matter of tolerance that the nets differ
    shifted = fit_priors(take(five, 0, 1), dip, context, first_index=1)
    assert (shifted.outputs - expected[:1]).abs().max().item() > 0.01


def test_the_seed_decides_and_nothing_else(five: ImageSet) -> None:
    dip = DIPConfig(num_iter=3)
    first = fit_priors(five, dip, Context(seed=1))
    torch.rand(7, generator=None).sum()  # the global generator moves on; the fit must not care
    again, other = fit_priors(five, dip, Context(seed=1)), fit_priors(five, dip, Context(seed=2))
    assert torch.equal(first.outputs, again.outputs)
    assert torch.equal(first.losses, again.losses)
    assert not torch.allclose(first.outputs, other.outputs, atol=0.01)


def test_what_a_fit_leaves_behind(five: ImageSet) -> None:
    priors = fit_priors(five, DIPConfig(num_iter=35), Context())
    assert priors.outputs.shape == (5, 3, 16, 16)
    assert priors.outputs.dtype == torch.float32
    assert priors.outputs.abs().max() <= 1
    assert priors.losses.shape == (35, 5)
    assert priors.snapshot_iters.tolist() == [10, 30, 35]
    assert priors.snapshots.shape == (3, 5, 3, 16, 16)
    assert torch.equal(priors.snapshots[-1], priors.outputs)
    assert (priors.losses[-1] < 0.5 * priors.losses[0]).all()
    # losses[i] is the error before step i: that of the snapshot after i steps, in [0, 1]
    error = ((priors.snapshots[1] - five.pixels) / 2).square().mean(dim=(1, 2, 3))
    assert torch.allclose(priors.losses[30], error, rtol=1e-4)


def test_a_snapshot_is_a_fit_that_stopped_there(five: ImageSet) -> None:
    whole = fit_priors(five, DIPConfig(num_iter=12), Context())
    stopped = fit_priors(five, DIPConfig(num_iter=10), Context())
    assert whole.snapshot_iters.tolist() == [10, 12]
    assert torch.equal(whole.snapshots[0], stopped.outputs)
    assert torch.equal(whole.losses[:10], stopped.losses)
    assert stopped.snapshot_iters.tolist() == [10]
    assert torch.equal(stopped.snapshots[0], stopped.outputs)


def test_every_snapshot_has_its_iteration_in_a_long_fit() -> None:
    net = net_of(0, dtype=torch.float32)
    z, target = (
        torch.randn(1, 3, 2, 2, generator=seeded(1)),
        torch.rand(1, 3, 2, 2, generator=seeded(2)),
    )
    priors = fit(net, z, target, num_iter=3001, learning_rate=0.01)
    assert priors.snapshot_iters.tolist() == [10, 30, 100, 300, 1000, 3000, 3001]
    assert len(priors.snapshots) == len(priors.snapshot_iters)


def test_the_signed_target_turns_the_dark_half_black(objects: ImageSource) -> None:
    images = prepare(objects.train[:4], 32)
    unit, signed = (
        fit_priors(images, DIPConfig(num_iter=60, prior_target=target), Context()).outputs
        for target in ("unit", "signed")
    )
    better = psnr(unit, images.pixels) - psnr(signed, images.pixels)
    assert better.min() > 3
    # The best a Sigmoid can do for a target below 0 is 0, which is -1 in [-1, 1]; and for one in
    # [0, 1] it is the target t itself, which is 2 t - 1: mid-grey becomes black.
    ideal = images.pixels.clamp(min=0) * 2 - 1
    assert (psnr(signed, ideal) > psnr(signed, images.pixels)).all()


def test_join_keeps_the_order(five: ImageSet) -> None:
    parts = in_chunks(five, 2, DIPConfig(num_iter=1), Context())
    joined = join(*parts).pixels
    assert joined.shape == (5, 3, 16, 16)
    assert torch.equal(joined[2:4], parts[1].outputs)


def test_watch_sees_every_iteration(five: ImageSet) -> None:
    seen: list[object] = []

    def watch(iterable):  # type: ignore[no-untyped-def]
        for item in iterable:
            seen.append(item)
            yield item

    watched = fit_priors(five, DIPConfig(num_iter=4), Context(watch=watch))
    assert seen == [0, 1, 2, 3]
    assert torch.equal(watched.outputs, fit_priors(five, DIPConfig(num_iter=4), Context()).outputs)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("no_tf32")
def test_a_fit_on_cuda_is_the_fit_on_the_cpu(five: ImageSet) -> None:
    dip = DIPConfig(num_iter=5)
    before = torch.cuda.get_rng_state()
    cpu, cuda = (fit_priors(five, dip, Context(device=device)) for device in ("cpu", "cuda"))
    assert torch.equal(torch.cuda.get_rng_state(), before)

    def far(a: Tensor, b: Tensor) -> float:
        return (a - b).abs().max().item()

    # Same weights and input, summed up in another order; Adam lets the difference grow.
    assert far(cpu.losses[0], cuda.losses[0]) < 1e-5
    assert far(cpu.outputs, cuda.outputs) < 1e-3
    assert cuda.outputs.device.type == cuda.losses.device.type == "cpu"
