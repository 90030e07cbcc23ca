"""What a suite would do: the pipeline under a ledger that books every call and performs none."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table

from bench import flops
from bench.cases import pipeline_config
from bench.contest import run_contest
from bench.display import bytes_words, duration, operations
from bench.environment import collect
from bench.errors import UserError
from bench.extents import Booked
from bench.forecast import KNOWN, Estimate, Forecaster, Timed
from bench.ledger import BookingLedger
from bench.predicted_memory import predicted_bytes
from bench.records import UnitSpec
from bench.schedule import schedule
from dipddpm.config import Context
from dipddpm.encoded import EncodedImages
from dipddpm.inputs import NUM_REFERENCES
from dipddpm.pipeline import make_shared, run_pipeline
from dipddpm.sources import ImageSource, bundled_objects

MAX_IMAGES = 1_000_000


@dataclass(frozen=True)
class Booking:
    """Calls by their key, and how often each is made: by every case alone, and by each unit."""

    calls: dict[str, Booked] = field(default_factory=dict)
    alone: Counter[str] = field(default_factory=Counter)
    by_unit: dict[str, Counter[str]] = field(default_factory=dict)

    @functools.cached_property
    def shared(self) -> Counter[str]:
        """How often the run makes each call."""
        return sum(self.by_unit.values(), Counter())

    def by_stage(self, counts: Counter[str]) -> Counter[str]:
        """The number of calls of each stage, in the order in which the run has them."""
        found: Counter[str] = Counter()
        for key, count in counts.items():
            found[self.calls[key].function.__name__] += count
        return found

    def flops(self, counts: Counter[str], stage: str | None = None) -> int | None:
        """Operations of the nets of those calls, or of one stage's; None: it has no net."""
        known = [
            count * number
            for key, count in counts.items()
            if stage in (None, self.calls[key].function.__name__)
            and (number := flops.of_booked(self.calls[key])) is not None
        ]
        return sum(known) if known else None


def book(units: Iterable[UnitSpec]) -> Booking:
    """What every case alone would take, and what the run takes."""
    units = list(units)
    source = _stand_in(units)
    found = Booking()
    made: dict[str, frozenset[str]] = {}
    for spec in units:
        if spec.kind == "profile":  # shortened, and charged to no case
            continue
        ledger = BookingLedger(frozenset().union(*(made[unit] for unit in spec.needs)))
        context = Context(seed=spec.cases[0].seed)
        if spec.kind == "shared":
            for case in spec.cases:
                make_shared(pipeline_config((case,)), source, context, stages=ledger)
            made[spec.unit] = frozenset(ledger.rows)
        elif spec.kind == "contest":
            [case] = spec.cases
            stages = run_contest(case, source, context, ledger)
            found.alone.update(ledger.bill(*(one for some in stages.values() for one in some)))
        else:
            config = pipeline_config(spec.cases)
            for outcome in run_pipeline(config, source, context, stages=ledger):
                found.alone.update(ledger.bill(*outcome.scores))
        found.calls.update(ledger.booked)
        found.by_unit[spec.unit] = Counter(key for key, row in ledger.rows.items() if row.executed)
    return found


def _stand_in(units: Iterable[UnitSpec]) -> ImageSource:
    """Images that are never opened, as many as are asked for: which they are moves no count.

    Raises UserError if that is more than MAX_IMAGES.
    """
    cases = [case for spec in units for case in spec.cases]
    parts = []
    for name, least in (("num_images", NUM_REFERENCES), ("num_held_out", 1)):
        count = max([least, *(int(str(case.settings[name])) for case in cases)])
        if count > MAX_IMAGES:
            raise UserError(f"{name} must be at most {MAX_IMAGES} in a dry run, got {count}")
        # One more, which a learned start may be of.
        parts.append(EncodedImages(tuple(f"{name} {i}".encode() for i in range(count + 1))))
    train, held_out = parts
    return ImageSource("stand-in", train, held_out)


def show(
    units: list[UnitSpec],
    device: str,
    source: ImageSource | None,
    screen: Console,
    *,
    timed: bool,
    num_gpus: Sequence[int] = (),
) -> None:
    """A row a stage: how often it is called and the operations of its nets, by each case alone and
    by the run, and what the run is to take; below it what is to be said of that.

    device: "this" (CUDA where there is one), "cpu", "cuda", or one of KNOWN, which need not be here
    source: images to time with; None: others
    timed: whether seconds of a device that is here are told, for which steps are timed
    num_gpus: with so many of the device, when the last unit ends
    Raises UserError if there are no seconds of a GPU to tell that from.
    """
    cuda = device in ("cuda", *KNOWN) or (device == "this" and torch.cuda.is_available())
    forecaster = _forecaster(device, source, timed=timed)
    if num_gpus and not (cuda and forecaster):
        raise UserError(
            "--gpus must come with a GPU whose seconds are told: --device h100, or one that is "
            "here, without --untimed"
        )
    booking = book(units)
    seconds = {} if forecaster is None else _seconds(booking, forecaster)
    table = Table(
        title=f"{len(units)} units, without reuse (each case alone) and as the run does them",
        title_justify="left",
        show_footer=True,
    )
    flops_alone, flops_shared = booking.flops(booking.alone), booking.flops(booking.shared)
    table.add_column("stage", "in all")
    for name, footer, told in (
        ("calls, each alone", "", True),
        ("calls", "", True),
        ("FLOP, each alone", operations(flops_alone), True),
        ("FLOP", operations(flops_shared), True),
        ("seconds", _number(sum(value or 0.0 for value in seconds.values())), bool(seconds)),
        ("peak memory", "", cuda),
    ):
        if told:
            table.add_column(name, footer, justify="right")
    alone, shared = booking.by_stage(booking.alone), booking.by_stage(booking.shared)
    for stage, calls in shared.items():
        cells = [
            str(alone[stage]),
            str(calls),
            operations(booking.flops(booking.alone, stage)),
            operations(booking.flops(booking.shared, stage)),
        ]
        if seconds:
            cells.append(_number(seconds[stage]))
        if cuda:
            cells.append(bytes_words(_peak(booking, stage)))
        table.add_row(stage, *cells)
    screen.print(table)
    lines = []
    if flops_alone and flops_shared:
        lines.append(
            f"In operations the run takes {flops_shared / flops_alone:.2f} of what its cases alone "
            "would."
        )
    if device == "cuda" and not torch.cuda.is_available():
        lines.append(
            "There is no CUDA device here to time; `bench plan --device h100` estimates one."
        )
    if forecaster is not None:
        lines += _notes(booking, units, forecaster)
        lines += _schedules(booking, units, forecaster, num_gpus)
    for line in lines:
        screen.print(line, markup=False, soft_wrap=True)


def _forecaster(device: str, source: ImageSource | None, *, timed: bool) -> Forecaster | None:
    if device in KNOWN:
        return Estimate(device, KNOWN[device])
    there = torch.cuda.is_available()
    if not timed or (device == "cuda" and not there):
        return None
    files = (source or bundled_objects()).train
    return Timed(collect("cuda" if there and device != "cpu" else "cpu"), files)


def _seconds(booking: Booking, forecaster: Forecaster) -> dict[str, float | None]:
    """Of the run, by stage; None where any call's are not known."""
    found: dict[str, float | None] = {}
    for key, count in booking.shared.items():
        call = booking.calls[key]
        stage, taken = call.function.__name__, forecaster.seconds(call)
        so_far = found.get(stage, 0.0)
        found[stage] = None if taken is None or so_far is None else so_far + count * taken
    return found


def _notes(booking: Booking, units: Iterable[UnitSpec], forecaster: Forecaster) -> Iterator[str]:
    yield from forecaster.notes()
    beside = sum(_seconds_beside(calls, booking, forecaster) for calls in booking.by_unit.values())
    if beside:
        yield (
            f"Beside the stages about {duration(beside)} go into warming up and looking at the "
            f"machine, in {len(booking.by_unit)} units."
        )
    if any(spec.kind == "profile" for spec in units):
        yield "Profiles are not in it."


def _schedules(
    booking: Booking, units: Iterable[UnitSpec], forecaster: Forecaster, num_gpus: Iterable[int]
) -> Iterator[str]:
    planned = [spec for spec in units if spec.unit in booking.by_unit]
    seconds = {spec.unit: _unit_seconds(booking, spec.unit, forecaster) for spec in planned}
    if not any(seconds.values()):
        return
    for count in num_gpus:
        one = schedule(planned, seconds, count)
        yield (
            f"On {count} GPU{'s' * (count > 1)} it ends after {duration(one.wall_seconds)}, for "
            f"{one.idle_share:.0%} of which they are idle."
        )


def _unit_seconds(booking: Booking, unit: str, forecaster: Forecaster) -> float:
    """Of what is known of its stages, and of what is beside them."""
    calls = booking.by_unit[unit]
    return _seconds_beside(calls, booking, forecaster) + sum(
        count * (forecaster.seconds(booking.calls[key]) or 0.0) for key, count in calls.items()
    )


def _seconds_beside(calls: Counter[str], booking: Booking, forecaster: Forecaster) -> float:
    """What a unit that makes those calls takes beside them."""
    return forecaster.unit_seconds + sum(
        count * forecaster.warm_up_seconds(booking.calls[key]) for key, count in calls.items()
    )


def _number(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.1f}"


def _peak(booking: Booking, stage: str) -> int | None:
    """The highest that a call of the run is expected to allocate."""
    peaks = (
        predicted_bytes(call.function, call.given)
        for key, call in booking.calls.items()
        if booking.shared[key] and call.function.__name__ == stage
    )
    return max((peak for peak in peaks if peak is not None), default=None)
