"""What calls of stages will take: timed here on a few steps of each kind of call, or estimated.

Small nets are far from what a device can do, and how far is in no table: so a few steps of each
loop are made here, at the shapes that it will have, and each other stage once or twice. A step of
a training run takes as long whatever its noise schedule, learning rate or place in the run, so of a
whole suite there are few kinds. What would take long to time, and everything on a device that is
not here, is estimated: operations over TYPICAL_SHARE of the peak.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from bench import flops
from bench.baselines import fit_by_paper_loop, sample_by_pipeline, train_by_tutorial
from bench.cases import settings_of
from bench.costs import precision_of
from bench.errors import shortened
from bench.extents import Booked, Shape, extent_of, returned_by
from bench.machine import Machine
from bench.meters import Clock, Device, Steps
from bench.noise import disturbances, usual_probes
from bench.probe import probe
from bench.records import Environment, UnitSummary
from bench.warmup import EPOCHS, ITERATIONS, is_warmed_up, wake
from dipddpm.config import Context, DIPConfig, LoaderConfig, SamplingConfig, TrainingConfig
from dipddpm.dip import Priors, fit_priors, learn_initialisation
from dipddpm.encoded import EncodedImages
from dipddpm.features import BATCH_SIZE, NUM_FEATURES, Features, extract_features
from dipddpm.images import ImageSet, encode, prepare
from dipddpm.sampling import Samples, sample
from dipddpm.training import TrainedNet, train_ddpm

# Of the peak of its precision, what a training step of the published net reaches on an H100 with
# everything tuned is put at 35 to 45 %; small nets reach far less.
TYPICAL_SHARE = 0.35
# Published peaks (of the SXM kind, dense), in operations a second by precision.
KNOWN: Mapping[str, Mapping[str, float]] = {
    "h100": {"float32": 67e12, "tf32": 494.7e12, "float16": 989.4e12, "bfloat16": 989.4e12},
}

# Of a loop: steps that warm it up, and how many are timed, about so many seconds of them.
_WARM_STEPS, _LEAST_STEPS, _MOST_STEPS, _SECONDS = 2, 3, 20, 0.5
# What takes longer, a step or a call, is not made again to be timed.
_SLOW_SECONDS = 0.5
# A kind of call is timed if it would take no longer than this at the peak of the device.
_AFFORDABLE_SECONDS = 2.0
# Of stages without a loop on more images, so many are timed.
_MOST_IMAGES = 32

# Parameters of stages and fields of their settings that do not move the seconds of a step, or of a
# stage without a loop.
_NO_MATTER = frozenset(
    {
        "context", "epochs", "es_psnr", "first", "first_index", "initialisation", "last", "of",
        "part", "schedule",
        "degradation_sigma", "es_patience", "learning_rate", "lr_schedule", "lr_warmup_steps",
        "ema_ramp", "num_inference_steps", "num_iter", "prior_adam_beta1", "prior_learning_rate",
        "prior_target", "restoration", "start_from", "start_image_weight", "start_noise_weight",
        "t0", "task", "timestep_spacing", "warm_start", "warm_start_iter",
    }
)  # fmt: skip

_Given = Mapping[str, Any]


class Forecaster(Protocol):
    """Tells what calls will take.

    unit_seconds: of a unit, beside its stages and their warm-ups
    """

    unit_seconds: float

    def seconds(self, call: Booked) -> float | None:
        """None: it is not known."""

    def warm_up_seconds(self, call: Booked) -> float:
        """What a unit spends on throw-away copies before it makes the call."""

    def notes(self) -> list[str]:
        """What has to be said of the seconds that were told so far, in a line each."""


class Estimate:
    """Seconds from operations alone, for a device that need not be here.

    name: what it is called in notes; peaks: operations a second by precision

    Of what is beside the stages it knows nothing.
    """

    unit_seconds = 0.0

    def __init__(self, name: str, peaks: Mapping[str, float]) -> None:
        self._name, self._peaks = name, peaks
        self._left_out: set[str] = set()

    def seconds(self, call: Booked) -> float | None:
        count = flops.of_booked(call)
        if count is None:
            self._left_out.add(call.function.__name__)
            return None
        precision = _precision(call.function, call.given, "cuda")
        return count / (self._peaks[precision] * TYPICAL_SHARE)

    def warm_up_seconds(self, call: Booked) -> float:
        return 0.0

    def notes(self) -> list[str]:
        lines = [
            f"Seconds are an estimate: operations over {TYPICAL_SHARE:.0%} of the published peak "
            f"of {self._name}, in the precision of each stage. Small nets reach far less."
        ]
        if self._left_out:
            lines.append(f"Without a net, and left out: {', '.join(sorted(self._left_out))}.")
        return lines


@dataclass(frozen=True)
class _Timing:
    """Seconds of a call beside the steps of its loop, and of a step."""

    beside: float
    step: float = 0.0

    def of(self, num_steps: float) -> float:
        return self.beside + num_steps * self.step


@dataclass(frozen=True)
class _Loop:
    """So many steps, and all of it so many times; timing: None if it is not known."""

    timing: _Timing | None
    num_steps: float
    times: int = 1

    @property
    def seconds(self) -> float | None:
        return None if self.timing is None else self.times * self.timing.of(self.num_steps)

    @property
    def warm_up_seconds(self) -> float:
        return 0.0 if self.timing is None else self.timing.of(min(ITERATIONS, self.num_steps))


# Both lay their steps out by epochs, of batches of two shapes.
_TRAININGS = (train_ddpm, train_by_tutorial)


class Timed:
    """Seconds from a few steps of each kind of call on the device that is here.

    files: images for those that are read
    """

    def __init__(self, machine: Environment, files: EncodedImages) -> None:
        self._machine, self._files = machine, files
        self._device = Device("cuda:0" if machine.device == "cuda" else machine.device)
        self._steps = Steps(self._device)
        self._context = Context(device=str(self._device.torch_device), watch=self._steps.watch)
        self._timings: dict[object, _Timing | None] = {}
        self._made: dict[object, Any] = {}
        self._estimated: set[str] = set()
        self._left_out: dict[str, str] = {}
        self._watched = Machine(self._device.uuid)
        self._before = self._watched.state()
        started = time.perf_counter()
        wake(self._device.torch_device)
        probe(self._device)
        probe(self._device)
        self.unit_seconds = time.perf_counter() - started

    def seconds(self, call: Booked) -> float | None:
        function, given = call.function, _shapes(call.given)
        if function in _TRAININGS:
            return self._training_seconds(function, given)
        if (loop := self._loop(function, given)) is not None:
            return loop.seconds
        if not function.__module__.startswith(("dipddpm.", "bench.")):
            # A function of the user's is not run where nothing is to be run.
            self._left_out[function.__name__] = "a function of the user's"
            return None
        few, factor = _fewer(given)
        timing = self._whole(function, few)
        return None if timing is None else factor * timing.beside

    def warm_up_seconds(self, call: Booked) -> float:
        function, given = call.function, _shapes(call.given)
        if function in _TRAININGS:
            batches = self._batches(function, given)
            return sum(timing.of(EPOCHS) for timing, _ in batches if timing)
        if is_warmed_up(function) and (loop := self._loop(function, given)) is not None:
            return loop.warm_up_seconds
        return 0.0

    def notes(self) -> list[str]:
        lines = [
            f"Seconds: a few steps of each kind of call were timed here "
            f"({self._machine.device_name}, {self._machine.num_threads} threads); fits with a "
            "criterion are told as if none stopped early."
        ]
        if self._estimated:
            lines.append(
                f"Too long to time, so estimated at {TYPICAL_SHARE:.0%} of the measured peak: "
                f"{', '.join(sorted(self._estimated))}."
            )
        seen = UnitSummary(
            unit="timing", status="ok", machine=(self._before, self._watched.state())
        )
        if why := disturbances(seen, usual_probes([]), self._machine.cpu_count):
            lines.append(f"They are too high, for the machine was busy: {'; '.join(why)}.")
        if self._left_out:
            said = (f"{name} ({why})" for name, why in sorted(self._left_out.items()))
            lines.append(f"Left out: {', '.join(said)}.")
        return lines

    # Kinds of calls -----------------------------------------------------------------------------

    def _training_seconds(self, function: Callable[..., Any], given: _Given) -> float | None:
        epochs = given["epochs"] - extent_of(given.get("resume_from")).epochs
        total = 0.0
        for place, (timing, each) in enumerate(self._batches(function, given)):
            if timing is None:
                return None
            total += epochs * each * timing.step + (0.0 if place else timing.beside)
        return total

    def _batches(
        self, function: Callable[..., Any], given: _Given
    ) -> list[tuple[_Timing | None, int]]:
        """For each shape of batch its timing, and how many of it an epoch has."""
        count, batch_size = _count(given["images"]), given["training"].batch_size
        found = []
        for size, each in ((batch_size, count // batch_size), (count % batch_size, 1)):
            if size and each:
                few = {
                    name: _with_images(given.get(name), size) for name in ("images", "condition")
                }
                one = {**given, **few, "resume_from": None}
                timing = self._timed(function, partial(_with_epochs, one))
                found.append((timing, each))
        return found

    def _loop(self, function: Callable[..., Any], given: _Given) -> _Loop | None:
        """None: it has no loop."""
        if function is learn_initialisation:
            dip: DIPConfig = given["dip"]
            timing = self._timed(function, partial(_with_iterations, given))
            return _Loop(timing, dip.warm_start_iter)
        if function in (fit_priors, fit_by_paper_loop):
            return self._fits(function, given)
        if function in (sample, sample_by_pipeline):
            sampling: SamplingConfig = given["sampling"]
            timing = self._timed(function, partial(_with_inference_steps, given))
            return _Loop(timing, sampling.num_inference_steps)
        if function is extract_features:
            timing = self._timed(function, partial(_with_batches, given))
            return _Loop(timing, _count(given["images"]) / BATCH_SIZE)
        return None

    def _fits(self, function: Callable[..., Any], given: _Given) -> _Loop:
        dip: DIPConfig = given["dip"]
        given = {**given, "initialisation": None}
        size, count = extent_of(given["images"]).image_size, _count(given["images"])
        assert size is not None
        if function is fit_priors and dip.backend_on(self._machine.device, size) != "loop":
            count = 1  # all at once
        else:
            alone = {name: _with_images(given.get(name), 1) for name in ("images", "originals")}
            given = {**given, **alone}
        timing = self._timed(function, partial(_with_iterations, given))
        return _Loop(timing, dip.num_iter, times=count)

    def _timed(
        self, function: Callable[..., Any], of_steps: Callable[[int], _Given]
    ) -> _Timing | None:
        """of_steps: the arguments of a call of so many steps"""
        kind = _kind(function, of_steps(1))
        if kind not in self._timings:
            self._timings[kind] = self._estimated_step(function, of_steps) or self._safely(
                function, lambda: self._time_steps(function, of_steps)
            )
        return self._timings[kind]

    def _time_steps(
        self, function: Callable[..., Any], of_steps: Callable[[int], _Given]
    ) -> _Timing:
        seconds, steps = self._call(function, of_steps(_WARM_STEPS))
        quickest = steps[-1]
        if quickest < _SLOW_SECONDS:  # else more would take long, and the first costs little
            wanted = round(_SECONDS / quickest)
            num_steps = min(_MOST_STEPS, max(_LEAST_STEPS, wanted))
            seconds, steps = self._call(function, of_steps(num_steps))
            # Whatever disturbs can only add.
            quickest = min(quickest, *steps)
        return _Timing(max(0.0, seconds - sum(steps)), quickest)

    def _whole(self, function: Callable[..., Any], given: _Given) -> _Timing | None:
        """Of a call without a loop: the mean of one that finds all cold and of one that does not,
        as a unit has both."""
        kind = _kind(function, given)
        if kind not in self._timings:
            count = flops.of_stage(function, given) or 0
            if self._at_peak(function, given, count) > _AFFORDABLE_SECONDS:
                self._estimated.add(function.__name__)
                typical = self._at_peak(function, given, count) / TYPICAL_SHARE
                self._timings[kind] = _Timing(typical)
            else:
                self._timings[kind] = self._safely(
                    function, lambda: self._time_whole(function, given)
                )
        return self._timings[kind]

    def _time_whole(self, function: Callable[..., Any], given: _Given) -> _Timing:
        first, _ = self._call(function, given)
        if first > _SLOW_SECONDS:
            return _Timing(first)
        second, _ = self._call(function, given)
        return _Timing((first + second) / 2)

    def _estimated_step(
        self, function: Callable[..., Any], of_steps: Callable[[int], _Given]
    ) -> _Timing | None:
        """From operations, where timing would take long; None: it would not."""
        one = of_steps(1)
        step = self._at_peak(function, one, flops.of_stage(function, one) or 0)
        if (_WARM_STEPS + _LEAST_STEPS) * step <= _AFFORDABLE_SECONDS:
            return None
        self._estimated.add(function.__name__)
        return _Timing(0.0, step / TYPICAL_SHARE)

    def _at_peak(self, function: Callable[..., Any], given: _Given, count: int) -> float:
        """Seconds that so many operations take at the measured peak."""
        peaks: dict[str, float] = {one.precision: one.flops for one in self._machine.peaks}
        wanted = _precision(function, given, self._machine.device)
        return count / peaks.get(wanted, peaks["float32"])

    def _safely(self, function: Callable[..., Any], timed: Callable[[], _Timing]) -> _Timing | None:
        try:
            return timed()
        except Exception as error:  # what the stage will raise in the run: nothing is told of it
            text = shortened(f"{type(error).__name__}: {error}")
            self._left_out[function.__name__] = " ".join(text.split())
            return None

    # Calls --------------------------------------------------------------------------------------

    def _call(self, function: Callable[..., Any], given: _Given) -> tuple[float, list[float]]:
        """Seconds of a call, and of the steps of its loop."""
        call = inspect.signature(function).bind_partial()
        call.arguments.update({name: self._real(value, given) for name, value in given.items()})
        clock = Clock(self._device)
        with self._steps, clock:
            function(*call.args, **call.kwargs)
        return clock.seconds, self._steps.step_seconds

    def _real(self, value: Any, given: _Given) -> Any:
        if isinstance(value, tuple):
            return tuple(self._real(one, given) for one in value)
        if isinstance(value, Context):
            return self._context
        if not isinstance(value, Shape):
            return value
        key = _without_epochs(value), given.get("unet"), given.get("condition") is None
        if key not in self._made:
            self._made[key] = self._make(value, given)
        return self._made[key]

    def _make(self, shape: Shape, given: _Given) -> Any:
        """A result of that shape."""
        count, size = shape.extent.num_images or 0, shape.extent.image_size
        unwatched = Context(device=self._context.device)
        if shape.kind == Features.__name__:
            return Features(torch.rand(count, NUM_FEATURES))
        if shape.kind == EncodedImages.__name__:
            files = self._files_of(count)
            if shape.made_by != encode.__name__:
                return files
            return encode(ImageSet(self._pixels(count, given["image_size"])), files)
        if shape.kind == TrainedNet.__name__:
            images = ImageSet(self._pixels(1, given["image_size"]))
            condition = None if given.get("condition") is None else images
            return train_ddpm(
                images, given["image_size"], given["unet"], given["schedule"], TrainingConfig(),
                unwatched, loading=LoaderConfig(), condition=condition, epochs=1,
            )  # fmt: skip
        assert size is not None
        pixels = self._pixels(count, size)
        if shape.kind == Priors.__name__:
            return fit_priors(ImageSet(pixels), DIPConfig(num_iter=1), unwatched)
        return Samples(pixels) if shape.kind == Samples.__name__ else ImageSet(pixels)

    def _pixels(self, count: int, size: int) -> torch.Tensor:
        """So many images, not one like another."""
        few = prepare(self._files_of(min(count, _MOST_IMAGES)), size).pixels
        many = few.repeat(-(-count // len(few)), 1, 1, 1)[:count]
        noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(0))
        return (many + 0.1 * noise).clamp(-1, 1)

    def _files_of(self, count: int) -> EncodedImages:
        return EncodedImages(tuple(self._files.files[i % len(self._files)] for i in range(count)))


# Arguments -------------------------------------------------------------------------------------


def _shapes(given: _Given) -> _Given:
    """With the shapes of results in their place."""
    return {name: _shape(value) for name, value in given.items()}


def _shape(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_shape, value))
    if isinstance(value, EncodedImages):
        return Shape(EncodedImages.__name__, extent_of(value))
    if not isinstance(value, Booked):
        return value
    kind = returned_by(value.function)
    made_by = value.function.__name__ if kind == EncodedImages.__name__ else ""
    return Shape(kind, value.extent, made_by)


def _kind(function: Callable[..., Any], given: _Given) -> object:
    """Equal for calls that take as long, by step or as a whole."""
    return function, tuple(
        (name, _matter(value)) for name, value in sorted(given.items()) if name not in _NO_MATTER
    )


def _matter(value: Any) -> object:
    if isinstance(value, tuple):
        return tuple(map(_matter, value))
    if isinstance(value, Shape):
        return _without_epochs(value)
    if not dataclasses.is_dataclass(value):
        return value
    return tuple(
        (field.name, getattr(value, field.name))
        for field in dataclasses.fields(value)
        if field.name not in _NO_MATTER
    )


def _without_epochs(shape: Shape) -> Shape:
    return dataclasses.replace(shape, extent=dataclasses.replace(shape.extent, epochs=0))


def _fewer(given: _Given) -> tuple[_Given, float]:
    """With no more images than are timed, and what the seconds are to be multiplied by."""
    most = [
        _count(value) / _MOST_IMAGES
        for value in given.values()
        if _can_be_fewer(value) and _count(value) > _MOST_IMAGES
    ]
    few = {
        name: _with_images(value, min(_MOST_IMAGES, _count(value)))
        if _can_be_fewer(value)
        else value
        for name, value in given.items()
    }
    return few, max(most, default=1.0)


def _can_be_fewer(value: Any) -> bool:
    # Scores of features are of a whole set.
    return (
        isinstance(value, Shape)
        and value.extent.num_images is not None
        and value.kind != Features.__name__
    )


def _with_images(value: Any, count: int) -> Any:
    if not isinstance(value, Shape):
        return value
    return dataclasses.replace(value, extent=dataclasses.replace(value.extent, num_images=count))


def _with_epochs(given: _Given, epochs: int) -> _Given:
    return {**given, "epochs": epochs}


def _with_iterations(given: _Given, num_iter: int) -> _Given:
    dip = dataclasses.replace(given["dip"], num_iter=num_iter, warm_start_iter=num_iter)
    return {**given, "dip": dip}


def _with_inference_steps(given: _Given, num_steps: int) -> _Given:
    sampling: SamplingConfig = given["sampling"]
    num_steps = min(num_steps, sampling.num_inference_steps)
    return {**given, "sampling": dataclasses.replace(sampling, num_inference_steps=num_steps)}


def _with_batches(given: _Given, count: int) -> _Given:
    return {**given, "images": _with_images(given["images"], count * BATCH_SIZE)}


def _count(value: object) -> int:
    return extent_of(value).num_images or 0


def _precision(function: Callable[..., Any], given: _Given, device: str) -> str:
    settings: dict[str, object] = {}
    for value in given.values():
        if isinstance(value, DIPConfig | TrainingConfig | SamplingConfig):
            settings |= settings_of(value)
    return precision_of(function.__name__, settings, device)
