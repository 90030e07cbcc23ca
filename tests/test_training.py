from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dipddpm.config import (
    Context,
    LoaderConfig,
    NoiseScheduleConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
    derive_seed,
)
from dipddpm.diffusion import build_noise_scheduler, build_unet
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, TrainingImages, encode, prepare, take
from dipddpm.metrics import lag1_autocorrelation
from dipddpm.sampling import sample
from dipddpm.scoring import score_net
from dipddpm.sources import ImageSource
from dipddpm.training import (
    TrainedNet,
    ema_decay_at,
    learning_rate_factor,
    train_ddpm,
    update_ema,
)

Item = TypeVar("Item")
SEED = 7
SIZE = 16


MEMORY, DECODE, LIST = (LoaderConfig(loader=name) for name in ("memory", "decode", "list"))


def train(images: TrainingImages, *settings: Any, **more: Any) -> TrainedNet:
    """By default from memory, and files by decoding them."""
    loading = DECODE if isinstance(images, EncodedImages) else MEMORY
    return train_ddpm(images, *settings, **{"loading": loading, **more})


class Recorder:
    """A `watch` that keeps what passes."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, iterable: Iterable[Item], /) -> Iterator[Item]:
        for item in iterable:
            self.seen.append(item)
            yield item


def same(left: object, right: object) -> bool:
    """The same bits, through dicts, lists and tuples."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def same_net(left: TrainedNet, right: TrainedNet) -> bool:
    return same(vars(left), vars(right))


def mirrored(images: Tensor, heads: Tensor) -> Tensor:
    return torch.stack([x.flip(2) if head else x for x, head in zip(images, heads, strict=True)])


def plain_training(
    images: ImageSet,
    schedule: NoiseScheduleConfig,
    training: TrainingConfig,
    epochs: int,
    condition: ImageSet | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float]]:
    """The loop of the diffusers tutorial, with a seed of its own for each step."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(SEED, "unet"))
        model: Any = UNet2DModel(
            sample_size=SIZE,
            in_channels=3 if condition is None else 6,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    ema = copy.deepcopy(model)
    T, warmup = schedule.num_train_timesteps, training.lr_warmup_steps
    scheduler: Any = DDPMScheduler(**vars(schedule))
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1, (k + 1) / (warmup + 1)))
    losses: list[float] = []
    for epoch in range(epochs):
        shuffled = torch.Generator().manual_seed(derive_seed(SEED, "epoch", epoch))
        order = torch.randperm(len(images), generator=shuffled)
        for first in range(0, len(images), training.batch_size):
            step = len(losses)
            draw = torch.Generator().manual_seed(derive_seed(SEED, "training step", step))
            chosen = order[first : first + training.batch_size]
            heads = torch.rand(len(chosen), 1, 1, 1, generator=draw).flatten() < 0.5
            clean = mirrored(images.pixels[chosen], heads)
            noise = torch.randn(clean.shape, generator=draw)
            u = torch.rand(len(clean), generator=draw, dtype=torch.float64)
            t = torch.floor(u * T).to(torch.int64)
            x = scheduler.add_noise(clean, noise, t)
            if condition is not None:
                x = torch.cat([x, mirrored(condition.pixels[chosen], heads)], dim=1)
            prediction = model(x, t, return_dict=False)[0]
            v = schedule.prediction_type == "v_prediction"
            target = scheduler.get_velocity(clean, noise, t) if v else noise
            loss = nn.functional.mse_loss(prediction, target)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            decay = min(training.ema_decay, (1 + step) / (10 + step))
            for average, weight in zip(ema.parameters(), model.parameters(), strict=True):
                average.data.lerp_(weight.data, 1 - decay)
            losses.append(loss.item())
    return model.state_dict(), ema.state_dict(), losses


@pytest.fixture(scope="module")
def settings(
    tiny_unet: UNetConfig, tiny_schedule: NoiseScheduleConfig, tiny_training: TrainingConfig
) -> tuple[int, UNetConfig, NoiseScheduleConfig, TrainingConfig, Context]:
    return SIZE, tiny_unet, tiny_schedule, tiny_training, Context(seed=SEED)


@pytest.fixture(scope="module")
def two_epochs(objects16: ImageSet, settings: Any) -> TrainedNet:
    return train(objects16, *settings, epochs=2)


@pytest.fixture(scope="module")
def four_epochs(objects16: ImageSet, settings: Any) -> TrainedNet:
    return train(objects16, *settings, epochs=4)


def test_training_is_a_plain_loop_bit_for_bit(
    objects16: ImageSet, settings: Any, two_epochs: TrainedNet
) -> None:
    _, _, schedule, training, _ = settings
    weights, ema, losses = plain_training(objects16, schedule, training, 2)
    assert two_epochs.losses.tolist() == losses
    assert len(losses) == 6  # ten images: two batches of 4 and one of 2, twice
    assert same(two_epochs.weights, weights)
    assert same(two_epochs.ema_weights, ema)
    # ... and not because nothing moved
    start = build_unet(settings[1], SIZE, SEED).state_dict()
    assert not same(two_epochs.weights, dict(start))
    assert not same(two_epochs.weights, two_epochs.ema_weights)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_v_prediction_is_the_plain_loop_too(
    objects16: ImageSet, settings: Any, zero_snr: bool
) -> None:
    size, unet, schedule, training, context = settings
    v = replace(schedule, prediction_type="v_prediction", rescale_betas_zero_snr=zero_snr)
    trained = train(objects16, size, unet, v, training, context, epochs=2)
    weights, _, losses = plain_training(objects16, v, training, 2)
    # The target is put together in another order of the same operations, of two images' size.
    assert trained.losses.tolist() == pytest.approx(losses, rel=1e-6)
    assert max((trained.weights[name] - weights[name]).abs().max() for name in weights) < 1e-4


def test_a_condition_goes_with_its_image(objects16: ImageSet, settings: Any) -> None:
    _, _, schedule, training, _ = settings
    # mirrored with it, and never trained on: each image's own negative
    condition = ImageSet(-objects16.pixels + 0.25)
    trained = train(objects16, *settings, condition=condition, epochs=2)
    weights, ema, losses = plain_training(objects16, schedule, training, 2, condition)
    assert trained.losses.tolist() == losses
    assert same((trained.weights, trained.ema_weights), (weights, ema))
    assert trained.weights["conv_in.weight"].shape[1] == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_condition_comes_with_files_too(
    objects: ImageSource, objects16: ImageSet, settings: Any, workers: int
) -> None:
    files, condition = objects.train[:10], ImageSet(-objects16.pixels)
    loading = replace(DECODE, num_workers=workers)
    decode = train(files, *settings, loading=loading, condition=condition, epochs=1)
    assert same_net(decode, train(objects16, *settings, condition=condition, epochs=1))


def test_a_list_of_tensors_gives_the_bits_of_memory(
    objects16: ImageSet, settings: Any, two_epochs: TrainedNet
) -> None:
    assert same_net(train(objects16, *settings, loading=LIST, epochs=2), two_epochs)


@pytest.mark.parametrize("name", ["memory", "list", "decode"])
def test_what_the_loader_flips_is_not_flipped_again(
    objects: ImageSource, settings: Any, name: Any
) -> None:
    """With blank noise-free inputs the net sees, but for a factor, what the loader gave."""
    files = objects.train[:10]
    images = files if name == "decode" else prepare(files, SIZE)
    watch = Recorder()
    size, unet, schedule, training, context = settings
    watched: Any = (size, unet, schedule, training, replace(context, watch=watch))
    loading = LoaderConfig(loader=name, flip="loader")
    inputs = net_inputs(images, watched, loading=loading)
    blank = ImageSet(torch.zeros(10, 3, SIZE, SIZE))
    noise = net_inputs(blank, settings, loading=LoaderConfig(flip="loader"))
    abar = build_noise_scheduler(schedule).alphas_cumprod.double()
    for (x, t), (x_blank, _), given in zip(inputs, noise, watch.seen, strict=True):
        shown = (x.double() - x_blank) / abar[t].sqrt().view(-1, 1, 1, 1)
        assert (shown - given).abs().max() < 1e-5


def test_a_cpu_trains_in_float32_whatever_the_precision(
    objects16: ImageSet, settings: Any, two_epochs: TrainedNet
) -> None:
    size, unet, schedule, training, context = settings
    fp16 = replace(training, mixed_precision="fp16")
    assert same_net(train(objects16, size, unet, schedule, fp16, context, epochs=2), two_epochs)


def test_clipping_is_in_force(objects16: ImageSet, settings: Any, two_epochs: TrainedNet) -> None:
    # The plain loop clips too; this shows that the setting reaches the optimizer.
    size, unet, schedule, training, context = settings
    tight = replace(training, max_grad_norm=1e-9)
    clipped = train(objects16, size, unet, schedule, tight, context, epochs=2)
    assert not same(clipped.weights, two_epochs.weights)
    weights, _, _ = plain_training(objects16, schedule, tight, 2)
    assert same(clipped.weights, weights)


@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
def test_files_that_are_decoded_give_the_bits_of_memory(
    objects: ImageSource, settings: Any, kind: Any
) -> None:
    size, unet, _, training, context = settings
    schedule = NoiseScheduleConfig(num_train_timesteps=50, beta_schedule=kind)
    files = objects.train[:6]
    memory, decode = (
        train(images, size, unet, schedule, training, context, epochs=1)
        for images in (prepare(files, size), files)
    )
    assert same_net(memory, decode)
    weights, ema, losses = plain_training(prepare(files, size), schedule, training, 1)
    assert same((decode.weights, decode.ema_weights), (weights, ema))
    assert decode.losses.tolist() == losses


def test_encoded_priors_train_alike_from_files_and_memory(
    objects16: ImageSet, objects: ImageSource, settings: Any
) -> None:
    files: EncodedImages = encode(take(objects16, 0, 4), objects.train[:4])
    memory, decode = (train(x, *settings, epochs=1) for x in (prepare(files, SIZE), files))
    assert same_net(memory, decode)


def test_training_on_is_training_at_once(
    objects16: ImageSet, settings: Any, four_epochs: TrainedNet
) -> None:
    half = train(objects16, *settings, epochs=2)
    kept = copy.deepcopy(half)
    whole = train(objects16, *settings, epochs=4, resume_from=half)
    assert same_net(whole, four_epochs)
    assert whole.num_steps == 12
    # The milestone is a value: training on did not touch it.
    assert same_net(half, kept)
    assert not same(half.weights, whole.weights)


def test_a_milestone_shares_no_memory_with_what_comes_after(
    objects16: ImageSet, settings: Any
) -> None:
    half = train(objects16, *settings, epochs=1)
    whole = train(objects16, *settings, epochs=2, resume_from=half)

    def addresses(value: object) -> set[int]:
        if isinstance(value, Tensor):
            return {value.data_ptr()}
        if isinstance(value, dict):
            return set().union(*(addresses(x) for x in value.values()))
        return set().union(*map(addresses, value)) if isinstance(value, list) else set()

    first, second = (
        [addresses(part) for part in (net.weights, net.ema_weights, net.optimizer)]
        for net in (half, whole)
    )
    everything = [*first, *second]
    assert min(map(len, everything)) > 20
    assert len(set().union(*everything)) == sum(map(len, everything))


def test_the_prefix_of_a_run_is_the_shorter_run(
    two_epochs: TrainedNet, four_epochs: TrainedNet
) -> None:
    assert torch.equal(four_epochs.losses[:6], two_epochs.losses)


def test_the_seed_decides(objects16: ImageSet, settings: Any, two_epochs: TrainedNet) -> None:
    size, unet, schedule, training, _ = settings
    torch.manual_seed(123)  # the global generator must not matter
    again = train(objects16, size, unet, schedule, training, Context(seed=SEED), epochs=2)
    other = train(objects16, size, unet, schedule, training, Context(seed=8), epochs=2)
    assert same_net(again, two_epochs)
    assert not torch.equal(other.losses, two_epochs.losses)


def test_the_optimizer_state_is_at_full_rate_after_the_warm_up(two_epochs: TrainedNet) -> None:
    [group] = two_epochs.optimizer["param_groups"]
    assert group["lr"] == 1e-3
    assert {state["step"].item() for state in two_epochs.optimizer["state"].values()} == {6}


def test_warm_up_is_linear_and_then_constant() -> None:
    def factors(warmup: int, *steps: int) -> list[float]:
        training = TrainingConfig(lr_warmup_steps=warmup)
        return [learning_rate_factor(step, 10, training) for step in steps]

    assert factors(4, *range(6)) == [0.2, 0.4, 0.6, 0.8, 1, 1]
    assert factors(0, 0) == [1]
    assert factors(7, 10**9) == [1]


@pytest.mark.parametrize(("warmup", "num_steps"), [(0, 7), (3, 20), (500, 70), (5, 5), (1, 1000)])
def test_the_cosine_schedule_is_that_of_diffusers(warmup: int, num_steps: int) -> None:
    training = TrainingConfig(lr_schedule="cosine", lr_warmup_steps=warmup)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule: Any = get_cosine_schedule_with_warmup(optimizer, warmup, num_steps)
    for step in range(num_steps):
        assert learning_rate_factor(step, num_steps, training) == schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()


def test_a_cosine_run_follows_its_schedule_and_cannot_be_resumed(
    objects16: ImageSet, settings: Any
) -> None:
    size, unet, schedule, training, context = settings
    cosine = replace(training, lr_schedule="cosine", lr_warmup_steps=2)
    half = train(objects16, size, unet, schedule, cosine, context, epochs=1)
    # at the last of three steps, the first after the warm-up
    assert half.optimizer["param_groups"][0]["lr"] == 1e-3
    with pytest.raises(ValueError, match=r"resume_from must be None .* cosine, .* 1 epochs"):
        train(objects16, size, unet, schedule, cosine, context, epochs=2, resume_from=half)
    whole = train(objects16, size, unet, schedule, cosine, context, epochs=2)
    assert whole.optimizer["param_groups"][0]["lr"] == 1e-3 * 0.5 * (1 + math.cos(math.pi * 3 / 4))
    # The first step has a rate of 0, the second another than in the shorter run only later.
    assert torch.equal(whole.losses[:3], half.losses)
    assert not same(whole.weights, half.weights)


def test_ema_decay_grows_to_its_setting() -> None:
    slow, fast = TrainingConfig(ema_decay=0.9999), TrainingConfig(ema_decay=0.5)
    assert ema_decay_at(0, slow) == 0.1
    assert ema_decay_at(60, slow) == 61 / 70
    assert ema_decay_at(60, fast) == 0.5
    assert ema_decay_at(10**6, slow) == 0.9999
    assert ema_decay_at(0, replace(slow, ema_ramp=False)) == 0.9999


def test_without_decay_the_weights_themselves_are_kept(
    objects16: ImageSet, settings: Any, two_epochs: TrainedNet
) -> None:
    size, unet, schedule, training, context = settings
    none = replace(training, ema_decay=0.0)
    trained = train(objects16, size, unet, schedule, none, context, epochs=2)
    assert same(trained.weights, two_epochs.weights)
    assert same(trained.ema_weights, trained.weights)
    assert all(
        weight.data_ptr() != trained.weights[name].data_ptr()
        for name, weight in trained.ema_weights.items()
    )
    half = train(objects16, size, unet, schedule, none, context, epochs=1)
    on = train(objects16, size, unet, schedule, none, context, epochs=2, resume_from=half)
    assert same_net(on, trained)


def test_a_constant_decay_keeps_its_share_of_the_start(objects16: ImageSet, settings: Any) -> None:
    size, unet, schedule, training, context = settings
    constant = replace(training, ema_decay=0.7, ema_ramp=False)
    trained = train(objects16, size, unet, schedule, constant, context, epochs=1)
    start = dict(build_unet(unet, size, SEED).state_dict())
    weights = [start, *(weights_after(objects16, settings, steps) for steps in (1, 2, 3))]
    for name, got in trained.ema_weights.items():
        expected = sum(
            share * net[name].double()
            for share, net in zip((0.343, 0.147, 0.21, 0.3), weights, strict=True)
        )
        assert (got - expected).abs().max() < 1e-6


def weights_after(images: ImageSet, settings: Any, steps: int) -> dict[str, Tensor]:
    """Of a net in the middle of its first epoch."""
    size, unet, schedule, training, context = settings
    watched = replace(context, watch=lambda batches: itertools.islice(batches, steps))
    return train(images, size, unet, schedule, training, watched, epochs=1).weights


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("in_a_tensor", [True, False])
def test_ema_is_a_weighted_sum(foreach: bool, in_a_tensor: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(31, 5, dtype=torch.float64, generator=generator)
    ema = {"w": values[0].clone(), "b": values[0, :1].clone()}
    decays = [ema_decay_at(k, TrainingConfig(ema_decay=0.7)) for k in range(30)]
    for value, decay in zip(values[1:], decays, strict=True):
        rate = torch.tensor(1 - decay, dtype=torch.float64) if in_a_tensor else 1 - decay
        update_ema(ema, {"b": value[:1], "w": value}, rate, foreach=foreach)
    # ema_n = sum_k w_k (1 - d_k) prod_{j > k} d_j, and the start with prod d_j.
    d = torch.tensor([0.0, *decays], dtype=torch.float64)
    share = torch.stack([(1 - d[k]) * d[k + 1 :].prod() for k in range(31)])
    assert share.sum().item() == pytest.approx(1, abs=1e-14)
    assert torch.allclose(ema["w"], share @ values, rtol=0, atol=1e-14)
    assert torch.allclose(ema["b"], share @ values[:, :1], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (4, [4]), (10, [4, 4, 2]), (9, [4, 4, 1])])
def test_an_epoch_shows_each_image_once(settings: Any, count: int, sizes: list[int]) -> None:
    size, unet, schedule, training, _ = settings
    numbered = ImageSet(torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE) / count)
    watch = Recorder()
    trained = train(
        numbered, size, unet, schedule, training, Context(seed=SEED, watch=watch), epochs=3
    )
    assert [len(batch) for batch in watch.seen] == sizes * 3
    assert trained.num_steps == len(sizes) * 3
    shown = (torch.cat(watch.seen)[:, 0, 0, 0] * count).round().int().view(3, count)
    assert (shown.sort(dim=1).values == torch.arange(count)).all()
    if count > 4:  # in another order each time
        assert len({tuple(epoch) for epoch in shown.tolist()}) == 3


def test_watch_can_tell_the_number_of_steps(objects16: ImageSet, settings: Any) -> None:
    lengths = []

    def watch(iterable: Any, /) -> Any:
        lengths.append(len(iterable))
        return iterable

    size, unet, schedule, training, context = settings
    watched: Any = (size, unet, schedule, training, replace(context, watch=watch))
    half = train(objects16, *watched, epochs=2)
    train(objects16, *watched, epochs=3, resume_from=half)
    assert lengths == [6, 3]


def net_inputs(
    images: TrainingImages,
    settings: Any,
    loading: LoaderConfig = MEMORY,
    **changes: Any,
) -> list[tuple[Tensor, Tensor]]:
    """(x_t, t) of every step, as the net was given them."""
    inputs: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: Any) -> None:
        if isinstance(module, UNet2DModel):
            inputs.append((args[0].clone(), args[1].clone()))

    size, unet, schedule, training, context = settings
    hook = register_module_forward_pre_hook(keep)
    try:
        schedule = replace(schedule, **changes)
        train(images, size, unet, schedule, training, context, loading=loading, epochs=2)
    finally:
        hook.remove()
    return inputs


def test_one_u_serves_every_number_of_timesteps(objects16: ImageSet, settings: Any) -> None:
    many, half, few = (
        torch.cat([t for _, t in net_inputs(objects16, settings, num_train_timesteps=T)])
        for T in (1000, 500, 2)
    )
    assert len(many) == 20
    assert many.dtype == torch.int64
    assert many.min() >= 0
    assert 500 < many.max() < 1000
    # floor(u 500) = floor(floor(u 1000) / 2)
    assert torch.equal(half, many // 2)
    assert torch.equal(few, many // 500)


def test_arms_share_order_flips_noise_and_timesteps(objects16: ImageSet, settings: Any) -> None:
    blank = ImageSet(torch.zeros_like(objects16.pixels))
    scheduler: Any = DDPMScheduler(num_train_timesteps=50)
    abar = scheduler.alphas_cumprod.double()
    flipped, order = [], []
    for (x, t), (x_blank, t_blank) in zip(
        net_inputs(objects16, settings), net_inputs(blank, settings), strict=True
    ):
        assert torch.equal(t, t_blank)
        # The noise cancels, and what is left is an image, as it is or mirrored.
        shown = (x.double() - x_blank) / abar[t].sqrt().view(-1, 1, 1, 1)
        for image in shown:
            distance = torch.stack(
                [(pixels - image).abs().amax(dim=(1, 2, 3)) for pixels in
                 (objects16.pixels, objects16.pixels.flip(-1))]
            )  # fmt: skip
            assert distance.min() < 1e-5
            which = int(distance.argmin())
            flipped.append(which >= 10)
            order.append(which % 10)
        noise = x_blank / (1 - abar[t]).sqrt().view(-1, 1, 1, 1)
        # 768 draws an image: a standard error of 0.036 for the mean, 0.026 for the deviation
        assert noise.mean(dim=(1, 2, 3)).abs().max() < 0.18
        assert (noise.std(dim=(1, 2, 3)) - 1).abs().max() < 0.13
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert 3 <= sum(flipped) <= 17  # of 20 fair coins


def test_a_run_of_no_epochs_more_is_what_it_was(objects16: ImageSet, settings: Any) -> None:
    once = train(objects16, *settings, epochs=1)
    assert same_net(train(objects16, *settings, epochs=1, resume_from=once), once)


def test_a_net_can_be_saved_and_trained_on(
    objects16: ImageSet, settings: Any, two_epochs: TrainedNet
) -> None:
    half = train(objects16, *settings, epochs=1)
    stream = io.BytesIO()
    torch.save(vars(half), stream)
    stream.seek(0)
    loaded = TrainedNet(**torch.load(stream, weights_only=True))
    assert same_net(train(objects16, *settings, epochs=2, resume_from=loaded), two_epochs)


@pytest.mark.slow
def test_overfitting_eight_images(objects16: ImageSet) -> None:
    """The whole of training and sampling does what it is for."""
    images = take(objects16, 0, 8)
    unet = UNetConfig(block_out_channels=(32, 64), attention_levels=(1,), norm_num_groups=8)
    schedule, context = NoiseScheduleConfig(), Context()
    training = TrainingConfig(batch_size=8, learning_rate=2e-3, lr_warmup_steps=10, ema_decay=0.99)
    weights = dict(build_unet(unet, SIZE, context.seed).state_dict())
    untrained = TrainedNet(1, weights, weights, {}, torch.ones(1))
    trained = train(images, SIZE, unet, schedule, training, context, epochs=250)
    before, after = (
        score_net(net, images, SIZE, unet, schedule, context).values["eps_loss"]
        for net in (untrained, trained)
    )
    assert after < before / 3

    sampling = SamplingConfig(num_samples=8, num_inference_steps=20)
    samples = sample(trained, None, SIZE, unet, schedule, sampling, context).images
    noise = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

    def to_nearest(x: Tensor) -> Tensor:
        """Mean squared distance to the nearest training image, as it is or mirrored."""
        shown = torch.cat([images.pixels, images.pixels.flip(-1)]).flatten(1)
        return torch.cdist(x.flatten(1), shown).square().amin(1) / shown.shape[1]

    assert to_nearest(samples).max() < to_nearest(noise).min()
    assert lag1_autocorrelation(samples).min() > 0.2


@pytest.mark.cuda
def test_training_on_cuda_starts_from_the_same_weights(objects16: ImageSet, settings: Any) -> None:
    size, unet, schedule, training, context = settings
    on_cuda: Any = (size, unet, schedule, training, replace(context, device="cuda"))
    cpu, cuda = (train(objects16, *where, epochs=2) for where in (settings, on_cuda))
    assert {weight.device.type for weight in cuda.weights.values()} == {"cuda"}
    assert cuda.losses.device.type == "cpu"
    # The draws of CUDA differ from those of the CPU, the order, the rates and the start do not:
    # six small steps from one start stay close. A step moves a weight by its rate, 1e-3, at most.
    far = max(
        (cuda.weights[name].cpu() - weight).abs().max().item()
        for name, weight in cpu.weights.items()
    )
    assert 0 < far < 2 * 6 * 1.1e-3
    # 768 draws an image: losses of an untrained net are near 1
    assert (cuda.losses - cpu.losses).abs().max() < 0.3
    again = train(objects16, *on_cuda, epochs=1)
    on = train(objects16, *on_cuda, epochs=2, resume_from=again)
    assert torch.allclose(on.losses, cuda.losses, rtol=1e-3)


@pytest.mark.cuda
def test_fp16_on_cuda_is_close_to_float32_and_can_be_resumed(
    objects16: ImageSet, settings: Any
) -> None:
    size, unet, schedule, training, context = settings
    fp16 = replace(training, mixed_precision="fp16")
    where = replace(context, device="cuda")
    single, half = (
        train(objects16, size, unet, schedule, precision, where, epochs=4)
        for precision in (training, fp16)
    )
    assert half.losses.isfinite().all()
    assert not torch.equal(half.losses, single.losses)
    # The first scale, of 65,536, may overflow and is then halved: those steps move nothing.
    assert torch.allclose(half.losses[0], single.losses[0], rtol=1e-2)
    assert half.losses.mean() == pytest.approx(single.losses.mean().item(), rel=0.1)
    assert half.grad_scaler["scale"] <= 65536
    assert {weight.dtype for weight in half.weights.values()} == {torch.float32}
    first = train(objects16, size, unet, schedule, fp16, where, epochs=2)
    again = train(objects16, size, unet, schedule, fp16, where, epochs=4, resume_from=first)
    assert torch.allclose(again.losses, half.losses, rtol=1e-3)
    assert again.grad_scaler == half.grad_scaler


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_no_step_waits_for_cuda(objects16: ImageSet, settings: Any, precision: Any) -> None:
    size, unet, schedule, training, context = settings

    def watch(iterable: Any, /) -> Any:
        for step, item in enumerate(iterable):
            # The first steps build what stays; copying a batch from pageable memory waits.
            pinned = item.pin_memory()
            torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
            yield pinned
            torch.cuda.set_sync_debug_mode("default")

    training = replace(training, mixed_precision=precision)
    watched = replace(context, device="cuda", watch=watch)
    trained = train(objects16, size, unet, schedule, training, watched, epochs=3)
    assert trained.num_steps == 9
