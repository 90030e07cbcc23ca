from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dipddpm import dip as dip_module
from dipddpm.config import (
    Backend,
    Context,
    DataConfig,
    DIPConfig,
    EarlyStopping,
    Item,
    OutcomeConfig,
    PipelineConfig,
    SamplingConfig,
    derive_seed,
)
from dipddpm.degradation import degrade
from dipddpm.dip import (
    Priors,
    WindowedVariance,
    fit,
    fit_priors,
    join,
    learn_initialisation,
    prior_scores,
)
from dipddpm.images import ImageSet, prepare, take
from dipddpm.metrics import psnr
from dipddpm.nets import NETS, GroupedNets, PaperNet, SkipNet
from dipddpm.pipeline import make_shared
from dipddpm.sources import ImageSource

# A skip net for images of 8 pixels. With steps this long, fits wander and stop early.
SMALL = DIPConfig(skip_levels=2, skip_channels=4)
STOPPING = replace(
    SMALL, prior_learning_rate=0.05, early_stopping="es_wmv", es_window=4, es_patience=6
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net_of(*seeds: int, dip: DIPConfig = SMALL, dtype: torch.dtype = torch.float64) -> GroupedNets:
    net = NETS[dip.net](len(seeds), dip)
    net.initialise([seeded(seed) for seed in seeds])
    return net.to(dtype)


def fitted(
    net: GroupedNets, net_input: Tensor, target: Tensor, dip: DIPConfig, first: int = 0
) -> tuple[Priors, Tensor]:
    """A fit, and all its iterates (1 + iterations, num_nets, 3, H, W) as the nets made them.

    The nets of fits that have stopped make none: there they are NaN.
    """
    iterates: list[Tensor] = []
    hook = net.register_forward_hook(lambda *call: iterates.append(call[2].detach()))
    places = range(first, first + len(target))
    noise = [seeded(derive_seed(0, "noise", place)) for place in places]
    priors = fit(net, net_input, target, dip, reference=target, noise_generators=noise)
    hook.remove()
    whole = torch.full((len(iterates), *target.shape), torch.nan, dtype=target.dtype)
    for k, iterate in enumerate(iterates):
        whole[k, priors.spent_iters >= k] = iterate
    return priors, whole


def naive_es_wmv(iterates: Sequence[Tensor], window: int, patience: int) -> tuple[int, int]:
    """Algorithm 1 of Wang et al. 2021 for one image: which iterate, counted from 1, and when."""
    queue: list[Tensor] = []
    least, chosen, waited = float("inf"), len(iterates), 0
    for k, iterate in enumerate(iterates, start=1):
        queue.append(iterate.double())
        if len(queue) > window:
            queue.pop(0)
        if len(queue) < window:
            continue
        mean = torch.stack(queue).mean(0)
        variance = sum((x - mean).square().sum().item() for x in queue) / window
        if variance < least:
            least, chosen, waited = variance, k, 0
        else:
            waited += 1
            if waited == patience:
                return chosen, k
    return chosen, len(iterates)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("net_input", ["shared", "own"])
@pytest.mark.parametrize("reg_noise_std", [0.0, 0.03])
@pytest.mark.parametrize("early_stopping", ["none", "es_wmv", "psnr"])
def test_a_batched_fit_is_the_fits_one_by_one(
    name: str, net_input: str, reg_noise_std: float, early_stopping: EarlyStopping
) -> None:
    # In float64, where rounding cannot hide a coupling of the nets.
    dip = replace(
        SMALL if early_stopping == "none" else STOPPING,
        net=name,
        num_iter=25 if early_stopping == "none" else 60,
        reg_noise_std=reg_noise_std,
        early_stopping=early_stopping,
        es_psnr=12.5 if name == "paper" else 13.5,
    )
    z = torch.cat([NETS[name].draw_input(8, seeded(i)).double() for i in range(4)])
    if net_input == "shared":
        z = z[:1]
    target = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=seeded(2))
    together, iterates = fitted(net_of(0, 1, 2, 3, dip=dip), z, target, dip)
    for i in range(4):
        own_z = z if net_input == "shared" else z[i : i + 1]
        alone, own = fitted(net_of(i, dip=dip), own_z, target[i : i + 1], dip, first=i)
        spent = int(alone.spent_iters)
        assert (own[: spent + 1] - iterates[: spent + 1, i : i + 1]).abs().max().item() <= 1e-12
        assert torch.equal(together.spent_iters[i : i + 1], alone.spent_iters)
        assert torch.equal(together.output_iters[i : i + 1], alone.output_iters)
        assert torch.allclose(together.outputs[i : i + 1], alone.outputs, rtol=0, atol=2e-7)
        for curve, its_own in ((together.losses, alone.losses), (together.psnrs, alone.psnrs)):
            assert torch.allclose(curve[: len(its_own), i : i + 1], its_own, rtol=1e-6, atol=0)
            assert curve[len(its_own) :, i].isnan().all()
    errors = (together.outputs / 2 + 0.5 - target).square().mean()
    assert errors < 0.9 * target.var()  # it did fit
    if early_stopping != "none":
        assert len(together.spent_iters.unique()) > 1  # not all at a time


def test_a_fit_is_a_plain_loop() -> None:
    z = PaperNet.draw_input(8, seeded(1)).double()
    target = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=seeded(2))
    net = net_of(0)
    assert isinstance(net, PaperNet)
    plain = copy.deepcopy(net.layers)
    priors, _ = fitted(net, z, target, DIPConfig(num_iter=20))

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


@pytest.fixture(scope="module")
def noisy_five(five: ImageSet) -> ImageSet:
    return degrade(five, 25, Context())


def in_chunks(images: ImageSet, size: int, dip: DIPConfig, context: Context) -> list[Priors]:
    return [
        fit_priors(take(images, i, min(i + size, len(images))), dip, context, first_index=i)
        for i in range(0, len(images), size)
    ]


@pytest.mark.parametrize(
    "dip",
    [DIPConfig(num_iter=10), DIPConfig(num_iter=10, net_input="shared", reg_noise_std=0.03)],
)
def test_a_fit_does_not_depend_on_who_shares_its_batch(five: ImageSet, dip: DIPConfig) -> None:
    context = Context(seed=4)
    ones, twos, all_five = (in_chunks(five, size, dip, context) for size in (1, 2, 5))
    expected = join(*ones).pixels
    # The groups of a convolution are added up in another order; Adam's first steps divide by the
    # gradient's own size, so a rounding of 1e-7 grows a hundredfold in ten of them.
    for parts in (twos, all_five):
        assert (join(*parts).pixels - expected).abs().max().item() < 1e-3
        assert (join(*parts).pixels - expected).abs().mean().item() < 1e-4
        losses = torch.cat([part.losses for part in parts], dim=1)
        assert torch.allclose(losses, torch.cat([part.losses for part in ones], dim=1), rtol=1e-3)
    # and it is no matter of tolerance that the nets differ
    shifted = fit_priors(take(five, 0, 1), dip, context, first_index=1)
    assert (shifted.outputs - expected[:1]).abs().max().item() > 0.01


def test_skip_nets_in_float32_part_by_rounding_and_fit_as_well(noisy_five: ImageSet) -> None:
    dip = DIPConfig(net="skip", num_iter=60, skip_levels=3, skip_channels=8)
    ones, all_five = (in_chunks(noisy_five, size, dip, Context()) for size in (1, 5))
    losses, own = (torch.cat([part.losses for part in parts], dim=1) for parts in (all_five, ones))
    assert torch.allclose(losses[0], own[0], rtol=1e-5)
    assert torch.allclose(losses[-1].mean(), own[-1].mean(), rtol=0.1)


@pytest.mark.parametrize("net_input", ["shared", "own"])
@pytest.mark.parametrize("name", NETS)
def test_what_is_drawn_is_of_the_seed_and_the_place(
    five: ImageSet, name: str, net_input: str
) -> None:
    dip = DIPConfig(net=name, net_input=net_input, num_iter=2, skip_levels=2, skip_channels=4)  # type: ignore[arg-type]
    priors = fit_priors(take(five, 3, 5), dip, Context(seed=7), first_index=3)

    net = net_of(derive_seed(7, "prior", 3), derive_seed(7, "prior", 4), dip=dip).float()
    if net_input == "shared":
        z = net.draw_input(16, seeded(derive_seed(7, "net_input")))
    else:
        own = [seeded(derive_seed(7, "net_input", place)) for place in (3, 4)]
        z = torch.cat([net.draw_input(16, generator) for generator in own])
    expected, _ = fitted(net, z, (five.pixels[3:] + 1) / 2, dip)
    assert torch.equal(priors.outputs, expected.outputs)


def test_the_seed_decides_and_nothing_else(five: ImageSet) -> None:
    dip = DIPConfig(num_iter=3, reg_noise_std=0.1)
    state = torch.get_rng_state()
    first = fit_priors(five, dip, Context(seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7, generator=None).sum()  # the global generator moves on; the fit must not care
    again, other = fit_priors(five, dip, Context(seed=1)), fit_priors(five, dip, Context(seed=2))
    assert torch.equal(first.outputs, again.outputs)
    assert torch.equal(first.losses, again.losses)
    assert not torch.allclose(first.outputs, other.outputs, atol=0.01)


def test_each_iterate_has_noise_of_its_own() -> None:
    dip = replace(SMALL, net="skip", num_iter=30, reg_noise_std=0.05)
    z = torch.cat([NETS["skip"].draw_input(8, seeded(i)) for i in range(2)])
    net = net_of(0, 1, dip=dip, dtype=torch.float32)
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fitted(net, z, torch.rand(2, 3, 8, 8, generator=seeded(2)), dip)
    noise = torch.stack(seen) - z  # (iterates, nets, C, H, W)
    assert noise.shape == (31, 2, 32, 8, 8)
    flat = noise.flatten(0, 1).flatten(1).double()  # 2,048 values each: correlations of 0.022
    assert (flat.mean(1).abs() < 5 * 0.05 / 2048**0.5).all()
    assert torch.allclose(flat.std(1), torch.tensor(0.05).double(), rtol=0.08)
    correlations = torch.corrcoef(flat) - torch.eye(62)
    assert correlations.abs().max() < 6 / 2048**0.5


def test_what_a_fit_leaves_behind(five: ImageSet) -> None:
    priors = fit_priors(five, DIPConfig(num_iter=35), Context())
    assert priors.outputs.shape == (5, 3, 16, 16)
    assert priors.outputs.dtype == torch.float32
    assert priors.outputs.abs().max() <= 1
    assert priors.losses.shape == (35, 5)
    assert priors.psnrs.shape == (36, 5)
    assert priors.output_iters.tolist() == priors.spent_iters.tolist() == [35] * 5
    assert priors.snapshot_iters.tolist() == [10, 30, 35]
    assert priors.snapshots.shape == (3, 5, 3, 16, 16)
    assert torch.equal(priors.snapshots[-1], priors.outputs)
    assert (priors.losses[-1] < 0.5 * priors.losses[0]).all()
    # losses[k] is the error of the iterate after k steps, in [0, 1]
    error = ((priors.snapshots[1] - five.pixels) / 2).square().mean(dim=(1, 2, 3))
    assert torch.allclose(priors.losses[30], error, rtol=1e-4)
    tensors = [getattr(priors, field.name) for field in fields(priors)]
    assert all(tensor.device.type == "cpu" for tensor in tensors)
    # safetensors refuses tensors that share memory.
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


@pytest.mark.parametrize("reg_noise_std", [0.0, 0.03])
def test_a_snapshot_is_a_fit_that_stopped_there(five: ImageSet, reg_noise_std: float) -> None:
    dip = DIPConfig(num_iter=12, reg_noise_std=reg_noise_std)
    whole = fit_priors(five, dip, Context())
    stopped = fit_priors(five, replace(dip, num_iter=10), Context())
    assert whole.snapshot_iters.tolist() == [10, 12]
    assert torch.equal(whole.snapshots[0], stopped.outputs)
    assert torch.equal(whole.losses[:10], stopped.losses)
    assert torch.equal(whole.psnrs[:11], stopped.psnrs)
    assert stopped.snapshot_iters.tolist() == [10]
    assert torch.equal(stopped.snapshots[0], stopped.outputs)


def test_every_snapshot_has_its_iteration_in_a_long_fit() -> None:
    z, target = PaperNet.draw_input(2, seeded(1)), torch.rand(1, 3, 2, 2, generator=seeded(2))
    net = net_of(0, dtype=torch.float32)
    priors, iterates = fitted(net, z, target, DIPConfig(num_iter=301))
    assert priors.snapshot_iters.tolist() == [10, 30, 100, 300, 301]
    assert torch.equal(priors.snapshots, iterates[priors.snapshot_iters] * 2 - 1)


def test_psnrs_are_to_the_originals_and_move_nothing(five: ImageSet, noisy_five: ImageSet) -> None:
    dip = replace(STOPPING, net="skip", num_iter=40)
    to_originals = fit_priors(noisy_five, dip, Context(), originals=five)
    to_itself = fit_priors(noisy_five, dip, Context())
    for field in fields(Priors):
        same = torch.equal(
            getattr(to_originals, field.name).nan_to_num(),
            getattr(to_itself, field.name).nan_to_num(),
        )
        assert same == (field.name != "psnrs")
    stop = psnr(to_originals.outputs, five.pixels)
    assert torch.allclose(to_originals.psnr_stop.double(), stop, atol=1e-4)
    # In [0, 1] the range is 1, so the loss says the PSNR to the image that is fitted.
    running = ~to_itself.losses.isnan()
    from_loss = -10 * to_itself.losses.log10()
    assert torch.allclose(to_itself.psnrs[:-1][running], from_loss[running], atol=1e-4)


@pytest.mark.parametrize("early_stopping", ["none", "es_wmv"])
def test_the_best_iterate_is_reported_and_not_taken(
    five: ImageSet, noisy_five: ImageSet, early_stopping: str
) -> None:
    # A net that has long overfitted the noise: its best iterate lies far back.
    dip = DIPConfig(
        net="skip",
        skip_levels=3,
        skip_channels=16,
        num_iter=150,
        early_stopping=early_stopping,  # type: ignore[arg-type]
        es_window=10,
        es_patience=150,
    )
    priors = fit_priors(take(noisy_five, 0, 2), dip, Context(), originals=take(five, 0, 2))
    best = priors.psnrs.argmax(0)
    assert torch.equal(priors.psnr_peak, priors.psnrs.amax(0))
    assert (priors.psnr_peak > priors.psnr_last + 1).all()
    assert (priors.psnr_peak > priors.psnr_stop).all()
    assert (best != priors.output_iters).all()
    assert priors.spent_iters.tolist() == [150, 150]
    last = psnr(priors.outputs, five.pixels[:2])
    if early_stopping == "none":
        assert torch.allclose(priors.psnr_last.double(), last, atol=1e-4)
        assert torch.equal(priors.psnr_stop, priors.psnr_last)
    else:
        assert torch.allclose(priors.psnr_stop.double(), last, atol=1e-4)


def wandering(dtype: torch.dtype) -> Tensor:
    """200 iterates of 7 images, (200, 7, 3, 4, 4): far, then close around a point, then anew.

    The hundredth is far from all, as when Adam takes a wrong step; what it adds must leave again,
    to tell the two close times of the last two images apart.
    """
    steps = torch.randn(200, 7, 3, 4, 4, generator=seeded(0), dtype=torch.float64)
    k = torch.arange(200)[:, None]
    close = torch.tensor([[-50, -50], [50, 50], [90, 90], [150, 150], [400, 400], [60, 140]])
    distance = (k[..., None] - close[[0, 1, 2, 3, 4, 5, 5]]).abs().amin(-1) / 100
    size = 1e-5 + 3e-2 * distance**2
    size[:100, 5] *= 1.5
    size[100:, 6] *= 1.5
    start = torch.rand(7, 3, 4, 4, generator=seeded(1), dtype=torch.float64)
    iterates = start + steps * size[..., None, None, None]
    iterates[99] += 1
    return iterates.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("window", "patience"), [(2, 200), (10, 1), (10, 30), (25, 200), (201, 5)])
def test_es_wmv_is_the_recursion_of_the_paper(
    dtype: torch.dtype, window: int, patience: int
) -> None:
    iterates = wandering(dtype)
    criterion = WindowedVariance(iterates[0], window, patience)
    stopped = []
    for k, iterate in enumerate(iterates, start=1):
        criterion.update(k, iterate)
        stopped.append(not criterion.running.any())
    chosen, spent = zip(
        *(naive_es_wmv(list(iterates[:, i]), window, patience) for i in range(7)), strict=True
    )
    assert criterion.chosen_iters.tolist() == list(chosen)
    assert criterion.spent_iters.tolist() == list(spent)
    for i in range(7):
        assert torch.equal(criterion.chosen[i], iterates[chosen[i] - 1, i])
    if any(stopped):
        assert stopped.index(True) == max(spent) - 1  # of index k - 1
    if (window, patience) == (10, 30):
        assert len(set(chosen)) > 4 and max(spent) == 200 > min(spent)
    if window > 200:  # never a variance: the last iterate
        assert set(chosen) == set(spent) == {200}


def test_es_wmv_of_a_fit_is_the_recursion_of_the_paper(noisy_five: ImageSet) -> None:
    dip = replace(STOPPING, net="skip", num_iter=80)
    target = (noisy_five.pixels + 1) / 2
    z = SkipNet.draw_input(16, seeded(0))
    priors, iterates = fitted(net_of(*range(5), dip=dip, dtype=torch.float32), z, target, dip)
    for i in range(5):
        chosen, spent = naive_es_wmv(list(iterates[1:, i]), 4, 6)
        assert priors.output_iters[i] == chosen
        assert priors.spent_iters[i] == spent
        assert torch.equal(priors.outputs[i], iterates[chosen, i] * 2 - 1)
    assert len(priors.spent_iters.unique()) > 1


class Seen:
    """A watch that keeps what it passes on."""

    def __init__(self) -> None:
        self.items: list[object] = []

    def __call__(self, iterable: Iterable[Item], /) -> Iterator[Item]:
        for item in iterable:
            self.items.append(item)
            yield item


def test_a_fit_ends_with_the_last_image_however_often_it_is_asked(
    noisy_five: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In float64: a net is rounded otherwise beside others, and which are dropped when differs.
    dip = replace(STOPPING, net="skip", skip_channels=16, num_iter=120)
    target = (noisy_five.pixels.double() + 1) / 2
    z = SkipNet.draw_input(16, seeded(0)).double()
    results, steps = [], []
    for between in (1, 50, 120):
        monkeypatch.setattr(dip_module, "_ITERS_BETWEEN_ASKING", {"cpu": between})
        seen = Seen()
        results.append(
            fit(
                net_of(*range(5), dip=dip),
                z,
                target,
                dip,
                reference=target,
                noise_generators=[seeded(0)] * 5,
                watch=seen,
            )
        )
        steps.append(len(seen.items))
    longest = int(results[0].spent_iters.max())
    # The step from the iterate at which it is asked is run before.
    assert steps == [longest + 1, -(-longest // 50) * 50 + 1, 120]
    assert longest < 100 and len(results[0].spent_iters.unique()) > 1
    for other in results[1:]:
        for field in fields(Priors):
            ours, theirs = (getattr(one, field.name) for one in (results[0], other))
            assert torch.equal(ours.isnan(), theirs.isnan())
            assert torch.allclose(ours.nan_to_num(), theirs.nan_to_num(), rtol=0, atol=1e-6)


def test_where_a_fit_had_stopped_its_snapshots_are_its_output(noisy_five: ImageSet) -> None:
    dip = replace(STOPPING, net="skip", num_iter=80)
    target = (noisy_five.pixels + 1) / 2
    z = SkipNet.draw_input(16, seeded(0))
    priors, iterates = fitted(net_of(*range(5), dip=dip, dtype=torch.float32), z, target, dip)
    longest = int(priors.spent_iters.max())
    assert priors.snapshot_iters.tolist() == [k for k in (10, 30, 100) if k < longest] + [longest]
    stopped_earlier = 0
    for k, snapshot in zip(priors.snapshot_iters.tolist(), priors.snapshots, strict=True):
        for i in range(5):
            stopped = k >= priors.spent_iters[i]
            stopped_earlier += bool(stopped) and k < longest
            expected = priors.outputs[i] if stopped else iterates[k, i] * 2 - 1
            assert torch.equal(snapshot[i], expected)
    assert stopped_earlier


def test_the_signed_target_turns_the_dark_half_black(objects: ImageSource) -> None:
    images = prepare(objects.train[:4], 32)
    unit, signed = (
        fit_priors(images, DIPConfig(num_iter=60, prior_target=target), Context())
        for target in ("unit", "signed")
    )
    assert (unit.psnr_last - signed.psnr_last).min() > 3
    # The best a Sigmoid can do for a target below 0 is 0, which is -1 in [-1, 1]; and for one in
    # [0, 1] it is the target t itself, which is 2 t - 1: mid-grey becomes black.
    ideal = images.pixels.clamp(min=0) * 2 - 1
    assert (psnr(signed.outputs, ideal) > psnr(signed.outputs, images.pixels)).all()
    # PSNRs are to the image itself, whatever was fitted.
    assert torch.allclose(signed.psnr_last.double(), psnr(signed.outputs, images.pixels), atol=1e-4)


def test_join_and_scores_keep_the_order(noisy_five: ImageSet) -> None:
    parts = in_chunks(noisy_five, 2, replace(STOPPING, num_iter=30), Context())
    joined = join(*parts).pixels
    assert joined.shape == (5, 3, 16, 16)
    assert torch.equal(joined[2:4], parts[1].outputs)
    scores = prior_scores(*parts)
    for name, expected in {
        "prior_psnr_peak": parts[1].psnr_peak,
        "prior_psnr_stop": parts[1].psnr_stop,
        "prior_psnr_last": parts[1].psnr_last,
        "prior_output_iteration": parts[1].output_iters,
        "prior_iterations": parts[1].spent_iters,
    }.items():
        assert scores[name].shape == (5,)
        assert torch.equal(scores[name][2:4], expected.double())
    assert scores.keys() == {
        "prior_psnr_peak",
        "prior_psnr_stop",
        "prior_psnr_last",
        "prior_output_iteration",
        "prior_iterations",
    }
    assert (scores["prior_psnr_peak"] >= scores["prior_psnr_stop"]).all()
    assert (scores["prior_output_iteration"] <= scores["prior_iterations"]).all()


def test_watch_sees_every_iteration(five: ImageSet) -> None:
    seen = Seen()
    watched = fit_priors(five, DIPConfig(num_iter=4), Context(watch=seen))
    assert len(seen.items) == 4
    assert torch.equal(watched.outputs, fit_priors(five, DIPConfig(num_iter=4), Context()).outputs)


def test_as_many_originals_as_images(five: ImageSet) -> None:
    with pytest.raises(
        ValueError, match=r"originals must be \(2, 3, 16, 16\).*got \(1, 3, 16, 16\)"
    ):
        fit_priors(take(five, 0, 2), SMALL, Context(), originals=take(five, 0, 1))


@pytest.mark.cuda
@pytest.mark.parametrize("name", NETS)
def test_a_fit_on_cuda_is_the_fit_on_the_cpu(five: ImageSet, name: str) -> None:
    dip = DIPConfig(net=name, num_iter=5, skip_levels=3, skip_channels=8, prior_tf32="no")
    before = torch.cuda.get_rng_state()
    cpu, cuda = (fit_priors(five, dip, Context(device=device)) for device in ("cpu", "cuda"))
    assert torch.equal(torch.cuda.get_rng_state(), before)

    def far(a: Tensor, b: Tensor) -> float:
        return (a - b).abs().max().item()

    # Same weights and input, summed up in another order; Adam lets the difference grow.
    assert far(cpu.losses[0], cuda.losses[0]) < 1e-5
    assert far(cpu.psnrs[0], cuda.psnrs[0]) < 1e-3
    if name == "paper":
        assert far(cpu.outputs, cuda.outputs) < 1e-3
    assert cuda.outputs.device.type == cuda.losses.device.type == "cpu"


@pytest.mark.cuda
@pytest.mark.parametrize("name", NETS)
def test_an_iteration_never_waits_for_the_device(five: ImageSet, name: str) -> None:
    def watch(iterable: Iterable[Item], /) -> Iterator[Item]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield from iterable
        finally:
            torch.cuda.set_sync_debug_mode("default")

    dip = replace(STOPPING, net=name, num_iter=20, reg_noise_std=0.03)
    assert fit_priors(five, dip, Context(device="cuda", watch=watch)).outputs.isfinite().all()


# How fits are run -----------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", ["none", "psnr"])
@pytest.mark.parametrize(
    "lever",
    [{}, {"prior_channels_last": False}, {"backend": "grouped"}, {"prior_adam_beta1": 0.8}],
    ids=str,
)
def test_a_backend_fits_as_the_plain_loop_does(
    lever: dict[str, Any], early_stopping: EarlyStopping, five: ImageSet
) -> None:
    dip = DIPConfig(num_iter=40, early_stopping=early_stopping, es_psnr=16.0, backend="loop")
    priors = fit_priors(five, replace(dip, **lever), Context(seed=3), first_index=2)
    ends = []
    for i, pixels in enumerate(five.pixels):
        place = 2 + i
        net = PaperNet(1, dip)
        net.initialise([seeded(derive_seed(3, "prior", place))])
        plain = net.layers.double()
        z = PaperNet.draw_input(16, seeded(derive_seed(3, "net_input", place))).double()
        target = (pixels.double() + 1) / 2
        betas = (lever.get("prior_adam_beta1", 0.9), 0.999)
        optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, betas=betas)
        for k in range(41):
            image = plain(z)[0]
            loss = nn.functional.mse_loss(image, target)
            # In float32 the same up to rounding, which grows with the steps.
            assert priors.psnrs[k, i].item() == pytest.approx(-10 * loss.log10().item(), abs=0.02)
            if early_stopping == "psnr" and loss <= 10**-1.6:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(k)
        assert (priors.outputs[i] / 2 + 0.5 - image).abs().max() < 0.02
        assert priors.psnrs[k + 1 :, i].isnan().all()
    assert priors.spent_iters.tolist() == priors.output_iters.tolist() == ends
    if early_stopping == "psnr":
        assert len(set(ends)) > 1 and max(ends) < 40
        kept = priors.snapshot_iters.tolist()
        assert kept[-1] == max(ends)
        for i, end in enumerate(ends):
            for k, snapshot in zip(kept, priors.snapshots, strict=True):
                assert torch.equal(snapshot[i], priors.outputs[i]) == (k >= end)
    else:
        assert set(ends) == {40}


def test_a_fit_in_bfloat16_is_as_good(five: ImageSet) -> None:
    dip = DIPConfig(num_iter=60, backend="loop")
    whole, lower = (
        fit_priors(five, replace(dip, prior_precision=precision), Context()).psnrs
        for precision in ("no", "bf16")
    )
    assert not torch.equal(whole[0], lower[0])
    assert (whole[0] - lower[0]).abs().max() < 0.05
    assert lower[-1].mean() > whole[-1].mean() - 0.3
    assert lower[-1].mean() > lower[0].mean() + 5


def test_the_backend_is_chosen_by_device_and_size() -> None:
    def chosen(device: str, size: int, backend: Any = "auto") -> str:
        return DIPConfig(backend=backend).backend_on(device, size)

    assert [chosen("cpu", size) for size in (16, 32, 63, 64, 128)] == ["grouped"] * 3 + ["loop"] * 2
    assert chosen("cuda", 128) == "grouped"
    assert chosen("cpu", 128, "grouped") == "grouped" and chosen("cuda", 32, "loop") == "loop"


@pytest.mark.parametrize("name", NETS)
def test_of_nets_some_are_kept(name: str) -> None:
    dip = replace(SMALL, net=name)
    together = net_of(0, 1, 2, 3, dip=dip)
    x = torch.cat([NETS[name].draw_input(8, seeded(i)) for i in range(4)]).double()
    whole = together(x)
    before = list(together.parameters())
    together.keep(torch.tensor([1, 3]))
    assert (together(x[[1, 3]]) - whole[[1, 3]]).abs().max() < 1e-12
    assert all(a is b for a, b in zip(before, together.parameters(), strict=True))
    alone = net_of(1, 3, dip=dip)
    for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NETS)
def test_a_learned_start_is_a_fit_to_another_image(name: str, five: ImageSet) -> None:
    dip = DIPConfig(
        net=name, skip_levels=2, skip_channels=8, warm_start="learned", warm_start_iter=60,
        num_iter=30, backend="loop",
    )  # fmt: skip
    other, context = take(five, 4, 5), Context(seed=1)
    learned = learn_initialisation(other, dip, context)
    again = learn_initialisation(take(five, 4, 5), dip, context)
    assert all(torch.equal(learned.weights[key], again.weights[key]) for key in again.weights)
    # It is where the fits begin ...
    priors = fit_priors(take(five, 0, 4), dip, context, initialisation=learned)
    net = NETS[name](1, dip)
    net.initialise_alike(learned.weights)
    for i in range(4):
        z = net.draw_input(16, seeded(derive_seed(1, "net_input", i)))
        first = psnr(net(z).detach() * 2 - 1, five.pixels[i : i + 1])
        assert priors.psnrs[0, i].item() == pytest.approx(first.item(), abs=1e-3)
    # ... and gets them further. `num_iter` of the fits is none of its own.
    cold = fit_priors(take(five, 0, 4), dip, context)
    assert priors.psnr_last.mean() > cold.psnr_last.mean() + 1
    longer = learn_initialisation(other, replace(dip, num_iter=99), context)
    assert all(torch.equal(learned.weights[key], longer.weights[key]) for key in longer.weights)


@pytest.mark.cuda
@pytest.mark.parametrize("backend", ["loop", "grouped"])
@pytest.mark.parametrize("early_stopping", ["none", "psnr"])
def test_a_recorded_iteration_is_the_iteration(
    five: ImageSet, backend: Backend, early_stopping: EarlyStopping
) -> None:
    dip = DIPConfig(
        num_iter=130, backend=backend, early_stopping=early_stopping, es_psnr=16.0, prior_tf32="no"
    )
    context = Context(device="cuda")
    plain = fit_priors(five, dip, context)
    recorded = fit_priors(five, replace(dip, prior_cuda_graph=True), context)
    assert (plain.psnrs[0] - recorded.psnrs[0]).abs().max() < 1e-3
    assert (plain.psnrs[:20] - recorded.psnrs[:20]).nan_to_num().abs().max() < 0.1
    assert (plain.spent_iters - recorded.spent_iters).abs().max() <= 5


@pytest.mark.parametrize(
    "asked", [{"train_on": "dip"}, {"condition_on": "dip"}, {"start_from": "dip"}], ids=str
)
def test_no_fit_starts_from_an_image_that_is_fitted_with_it_or_scored(
    asked: dict[str, Any], objects: ImageSource
) -> None:
    learned_from: list[Tensor] = []

    def stages(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if function is learn_initialisation:
            learned_from.append(args[0].pixels)
        return function(*args, **kwargs)

    def make(num_held_out: int) -> None:
        few = {"num_iter": 1, "warm_start_iter": 1, "warm_start": "learned"}
        start = {"start_from": asked.get("start_from", "noise"), "num_inference_steps": 1}
        sampling = SamplingConfig(task="restore", num_samples=1, **start)
        arm = {name: value for name, value in asked.items() if name != "start_from"}
        config = PipelineConfig(
            data=DataConfig(image_size=16, num_images=3, num_held_out=num_held_out),
            dip=DIPConfig(**few),  # type: ignore[arg-type]
            outcomes=(OutcomeConfig(epochs=1, sampling=sampling),),
            **arm,
        )
        make_shared(config, objects, Context(), stages=stages)

    make(2)
    assert learned_from
    seen = torch.stack([one[0] for one in learned_from])
    scored = prepare(objects.held_out[:2], 16).pixels
    assert not any(torch.equal(one, other) for one in seen for other in scored)
    if "start_from" not in asked:  # those of held-out images may start from a training image
        fitted_images = prepare(objects.train[:3], 16).pixels
        first = seen[0]
        assert not any(torch.equal(first, other) for other in fitted_images)
        with pytest.raises(ValueError, match="num_held_out must be below the number of held-out"):
            make(len(objects.held_out))
