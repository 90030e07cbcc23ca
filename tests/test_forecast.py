"""What is told of a call beforehand is what it then takes, on a clock that ticks at every look."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from bench import dryrun, flops
from bench.baselines import fit_by_paper_loop, sample_by_pipeline, train_by_tutorial
from bench.environment import collect
from bench.extents import Booked, bound
from bench.forecast import KNOWN, TYPICAL_SHARE, Estimate, Timed, _Timing
from bench.ledger import BookingLedger
from bench.meters import Clock, Device, Steps
from bench.records import Environment, Peak
from bench.warmup import EPOCHS, ITERATIONS
from dipddpm.config import (
    Context,
    DIPConfig,
    LoaderConfig,
    NoiseScheduleConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)
from dipddpm.dip import fit_priors, learn_initialisation
from dipddpm.encoded import EncodedImages
from dipddpm.images import ImageSet, prepare
from dipddpm.sampling import sample
from dipddpm.scoring import score_net
from dipddpm.sources import bundled_objects
from dipddpm.training import train_ddpm
from tests.toy import toy_units

SOURCE = bundled_objects()
SIZE, CONTEXT = 16, Context()
UNET = UNetConfig(block_out_channels=(8,), attention_levels=())
SCHEDULE, MEMORY = NoiseScheduleConfig(), LoaderConfig()


@pytest.fixture(scope="module")
def machine() -> Environment:
    return collect("cpu")


@pytest.fixture
def timed(machine: Environment) -> Timed:
    return Timed(machine, SOURCE.train)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of a second passes with each look at the clock, and with nothing else."""
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks) / 100)


def taken(function: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    """By a whole call, its loop watched."""
    steps, clock = Steps(Device("cpu")), Clock(Device("cpu"))
    watched = Context(watch=steps.watch)
    given = {name: watched if value is CONTEXT else value
             for name, value in bound(function, args, kwargs).items()}  # fmt: skip
    with steps, clock:
        function(**given)
    return clock.seconds


def told(timed: Timed, function: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    seconds = timed.seconds(Booked(function, bound(function, args, kwargs)))
    assert seconds is not None
    return seconds


def booked_images(count: int) -> Booked:
    given = {"images": SOURCE.train[:count], "image_size": SIZE}
    return Booked(prepare, given)


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("function", [train_ddpm, train_by_tutorial])
def test_of_a_training_with_batches_of_two_shapes(
    timed: Timed, function: Callable[..., Any]
) -> None:
    training = TrainingConfig(batch_size=4)
    given = (SIZE, UNET, SCHEDULE, training, CONTEXT)
    for epochs, count in ((3, 10), (40, 10), (40, 8), (2, 3)):
        expected = taken(
            function, prepare(SOURCE.train[:count], SIZE), *given, loading=MEMORY, epochs=epochs
        )
        before = told(timed, function, booked_images(count), *given, loading=MEMORY,
                      epochs=epochs)  # fmt: skip
        # A step is between two looks, and a third is none of it; the tutorial looks more often, at
        # the ends of its epochs.
        num_steps = epochs * -(-count // 4)
        beside = 0.5 if function is train_by_tutorial else 0.25
        assert before == pytest.approx(expected, abs=0.01 * num_steps + beside)
        assert before > 0.02 * num_steps


@pytest.mark.usefixtures("ticking")
def test_a_training_that_goes_on_is_charged_for_what_it_adds(timed: Timed) -> None:
    given = (SIZE, UNET, SCHEDULE, TrainingConfig(batch_size=4), CONTEXT)
    arguments = (booked_images(8), *given)
    first = Booked(train_ddpm, bound(train_ddpm, arguments, {"loading": MEMORY, "epochs": 30}))
    whole, rest = (
        told(timed, train_ddpm, *arguments, loading=MEMORY, epochs=epochs, resume_from=resumed)
        for epochs, resumed in ((100, None), (130, first))
    )
    assert rest == pytest.approx(whole)


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize("num_steps", [1, 90])
def test_of_fits_and_of_sampling(timed: Timed, num_steps: int) -> None:
    images = prepare(SOURCE.train[:2], SIZE)
    trained = train_ddpm(images, *NET, TrainingConfig(), CONTEXT, loading=MEMORY, epochs=1)
    sampling = SamplingConfig(num_inference_steps=num_steps, num_samples=2)
    grouped, loop = (
        DIPConfig(num_iter=num_steps, backend=backend) for backend in ("grouped", "loop")
    )
    calls: tuple[tuple[Callable[..., Any], int, tuple[Any, ...]], ...] = (
        (fit_priors, 1, (images, grouped, CONTEXT)),
        (fit_priors, 2, (images, loop, CONTEXT)),
        (fit_by_paper_loop, 2, (images, grouped, CONTEXT)),
        (sample, 1, (trained, None, *NET, sampling, CONTEXT)),
        (sample_by_pipeline, 1, (trained, *NET, sampling, CONTEXT)),
    )
    booked = {id(images): booked_images(2), id(trained): TRAINED}
    for function, times, given in calls:
        before = told(timed, function, *(booked.get(id(one), one) for one in given))
        assert before == pytest.approx(
            taken(function, *given), abs=times * (0.01 * num_steps + 0.25)
        )
        assert before > times * 0.02 * num_steps


@pytest.mark.parametrize(
    ("function", "steps"),
    [
        (fit_priors, ITERATIONS),
        (fit_by_paper_loop, ITERATIONS),
        (learn_initialisation, ITERATIONS),
        (sample, ITERATIONS),
        (sample_by_pipeline, ITERATIONS),
        (train_ddpm, 2 * EPOCHS),
        (train_by_tutorial, 2 * EPOCHS),
        (prepare, 0),
    ],
)
def test_a_warm_up_is_told_by_its_steps(
    timed: Timed, function: Callable[..., Any], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Timed, "_timed", lambda *_: _Timing(beside=100.0, step=1.0))
    images, epochs = booked_images(6), {"loading": MEMORY, "epochs": 9}
    training = TrainingConfig(batch_size=4)
    dip, sampling = DIPConfig(backend="loop"), SamplingConfig()
    given: dict[Callable[..., Any], tuple[tuple[Any, ...], dict[str, Any]]] = {
        fit_priors: ((images, dip, CONTEXT), {}),
        fit_by_paper_loop: ((images, dip, CONTEXT), {}),
        learn_initialisation: ((booked_images(1), dip, CONTEXT), {}),
        sample: ((TRAINED, None, *NET, sampling, CONTEXT), {}),
        sample_by_pipeline: ((TRAINED, *NET, sampling, CONTEXT), {}),
        train_ddpm: ((images, *NET, training, CONTEXT), epochs),
        train_by_tutorial: ((images, *NET, training, CONTEXT), epochs),
        prepare: ((SOURCE.train[:6], SIZE), {}),
    }
    call = Booked(function, bound(function, *given[function]))
    # Batches of two shapes are warmed up one after the other.
    calls = 0 if steps == 0 else 2 if function in (train_ddpm, train_by_tutorial) else 1
    assert timed.warm_up_seconds(call) == calls * 100.0 + steps


NET = (SIZE, UNET, SCHEDULE)
TRAINED = Booked(
    train_ddpm,
    bound(train_ddpm, (booked_images(2), *NET, TrainingConfig(), CONTEXT),
          {"loading": MEMORY, "epochs": 1}),
)  # fmt: skip


def test_every_stage_of_a_suite_is_told_of_and_of_one_kind_once(timed: Timed) -> None:
    booking = dryrun.book(toy_units())
    calls = [booking.calls[key] for key in booking.shared]
    first = [timed.seconds(call) for call in calls]
    assert all(seconds is not None and seconds > 0 for seconds in first)
    # What was timed is not timed again, so the same is told of the same.
    assert [timed.seconds(call) for call in calls] == first
    assert len({call.function for call in calls}) <= len(timed._timings) < len(calls) / 2
    assert sum(timed.warm_up_seconds(call) for call in calls) > 0
    assert any("timed here" in line for line in timed.notes())


def test_what_would_take_long_is_estimated_from_its_operations(machine: Environment) -> None:
    slow = Peak(precision="float32", matmul_flops=1e3, conv_flops=2e3)
    timed = Timed(machine.model_copy(update={"peaks": (slow,)}), SOURCE.train)
    given = bound(train_ddpm, (booked_images(8), *NET, TrainingConfig(batch_size=4), CONTEXT),
                  {"loading": MEMORY, "epochs": 7})  # fmt: skip
    scored = bound(score_net, (TRAINED, booked_images(3), *NET, CONTEXT), {})
    for call in (Booked(train_ddpm, given), Booked(score_net, scored)):
        count = flops.of_booked(call)
        assert count is not None
        assert timed.seconds(call) == pytest.approx(count / (2e3 * TYPICAL_SHARE))
    assert any("score_net, train_ddpm" in line and "35%" in line for line in timed.notes())


def mine(images: ImageSet) -> ImageSet:
    raise AssertionError("nothing of the user's runs where nothing is to be run")


def test_a_function_of_the_users_is_not_run(timed: Timed) -> None:
    assert timed.seconds(Booked(mine, {"images": booked_images(2)})) is None
    assert any("mine" in line and "Left out" in line for line in timed.notes())


def test_what_a_stage_raises_is_told(machine: Environment) -> None:
    timed = Timed(machine, EncodedImages((b"no image",)))
    assert timed.seconds(booked_images(2)) is None
    assert any("Left out: prepare (ValueError: " in line for line in timed.notes())


def test_of_a_known_device_seconds_are_operations_over_its_peak() -> None:
    h100 = Estimate("h100", KNOWN["h100"])
    ledger = BookingLedger()
    images = ledger(prepare, SOURCE.train[:8], SIZE)
    for precision, mixed in (("float16", "fp16"), ("tf32", "no")):
        training = TrainingConfig(mixed_precision=mixed)  # type: ignore[arg-type]
        net = ledger(train_ddpm, images, *NET, training, CONTEXT, loading=MEMORY, epochs=2)
        call = ledger.booked[ledger.key_of(net)]
        count = flops.of_booked(call)
        assert count is not None
        assert h100.seconds(call) == pytest.approx(
            count / (KNOWN["h100"][precision] * TYPICAL_SHARE)
        )
    assert h100.seconds(ledger.booked[ledger.key_of(images)]) is None
    assert any("published peak of h100" in line and "35%" in line for line in h100.notes())
    assert any("left out: prepare" in line for line in h100.notes())


@pytest.mark.parametrize(
    ("device", "columns"),
    [("h100", {"seconds", "peak memory"}), ("cuda", {"peak memory"}), ("cpu", set())],
)
def test_the_table_of_a_plan(device: str, columns: set[str]) -> None:
    screen = Console(width=200, record=True, file=io.StringIO())
    units = toy_units()
    dryrun.show(units, device, None, screen, timed=False)
    lines = screen.export_text().splitlines()
    [head] = [line for line in lines if "stage" in line and "calls" in line]
    found = {name for name in ("seconds", "peak memory") if name in head}
    assert found == columns
    booking = dryrun.book(units)
    alone, shared = booking.flops(booking.alone), booking.flops(booking.shared)
    assert alone is not None and shared is not None
    assert any(f"takes {shared / alone:.2f} of" in line for line in lines)
    [line] = [line for line in lines if "train_ddpm" in line and "│" in line]
    numbers = [booking.by_stage(one)["train_ddpm"] for one in (booking.alone, booking.shared)]
    assert [int(cell) for cell in line.split("│")[2:4]] == numbers
