"""One unit in one fresh process: spec.json in, records, stages and artifacts out."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import flops, records
from bench.artifacts import Artifacts
from bench.cases import functions_of, outcome_config, pipeline_config
from bench.contest import run_contest, scores
from bench.environment import LOADED_SHA256, device_name, host
from bench.errors import shortened
from bench.ledger import MeasuringLedger
from bench.machine import Machine
from bench.meters import Device, SharedCounter, Spans
from bench.probe import probe
from bench.records import (
    Case,
    Environment,
    MachineState,
    Probe,
    Record,
    Row,
    StageRow,
    Status,
    UnitSpec,
    UnitSummary,
    is_contest,
)
from bench.run_folder import finish_unit, record_failure
from bench.warmup import wake, warm_up
from dipddpm.config import Context, OutcomeConfig
from dipddpm.dip import fit_priors, learn_initialisation
from dipddpm.guard_rails import guard_rails
from dipddpm.lookup import look_in, source_file
from dipddpm.pipeline import Outcome, attempts, make_shared
from dipddpm.sources import ImageSource, open_source

_FITS: frozenset[Callable[..., Any]] = frozenset({fit_priors, learn_initialisation})
# How many unusable files the warnings of a record name.
MAX_LEFT_OUT = 20


def main(unfinished: Path, started: float, *, import_seconds: float = 0.0) -> None:
    """Runs the unit of `unfinished`/spec.json and renames its folder when it is whole.

    started: time.monotonic() at which the process was asked for
    import_seconds: the part since then that went into loading torch and this package

    A failure is a result too: the records of what it kept from being done say so. A full disk is
    none: the process ends with its own exit status, and the unit stays unfinished.
    """
    try:
        _main(unfinished, started, import_seconds)
    except OSError as error:
        if not _disk_is_full(error):
            raise
        with contextlib.suppress(OSError):  # the log lies on the same disk
            traceback.print_exception(error)
        sys.exit(records.DISK_FULL)


def _main(unfinished: Path, started: float, import_seconds: float) -> None:
    process_start = time.monotonic() - started - import_seconds
    spans = Spans()
    # What the imports made is there for good: no later collection has to walk through it.
    gc.freeze()
    # What torch.compile makes is there for the units that follow, and for no other run.
    run = unfinished.parent.parent.resolve()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(run / records.COMPILED)
    flops.keep_in(run / records.COUNTS)
    with spans("prepare_unit"):
        place = _Place(unfinished)
        spec = records.read(unfinished / records.SPEC, UnitSpec)
        began = datetime.now(UTC).isoformat(timespec="seconds")
    with spans("wake_device"):
        device = Device("cuda:0" if spec.device == "cuda" else spec.device)
        known = records.read(unfinished.parent.parent / records.ENVIRONMENT, Environment)
        machine = Machine(device.uuid, shared=known.device_count > 1)
    with spans("prepare_unit"):
        ledger = MeasuringLedger(
            spec.unit,
            device,
            machine,
            Artifacts(
                unfinished,
                _needed_artifacts(unfinished.parent, spec),
                keep_all=spec.kind == "shared",
                keep_checkpoints=spec.keep_checkpoints,
            ),
            spans,
            counter=SharedCounter(unfinished / records.PROGRESS),
            # A fit just before would speed up the training that follows it in the same process.
            refused=_FITS if spec.kind == "train" else frozenset(),
            warm=None if spec.cold else warm_up,
        )
    probes: list[Probe] = []
    states: list[MachineState] = []

    def look() -> None:
        if spec.kind == "profile":  # which measures nothing: the machine may be busy
            return
        with spans("probe"):
            if not spec.cold:  # which a probe would warm up
                probes.append(probe(device))
            states.append(machine.state())

    status: Status = "ok"
    text = None
    with spans("pipeline"):
        try:
            if not spec.cold:
                with spans("wake_device"):
                    wake(device.torch_device)
            look()
            _run_unit(place, spec, ledger, spans)
        except Exception as error:  # whatever it is becomes a row, and the grid goes on
            if _disk_is_full(error):
                raise
            status, text = _failure(error)
            place.check()
            record_failure(unfinished, spec, status, text)
    if status == "ok":
        try:
            look()
        except Exception as error:  # of the machine; the unit is whole
            traceback.print_exception(error)
    with spans("finish_unit"):
        place.append(records.STAGES, ledger.new_rows())
        (unfinished / records.PROGRESS).unlink()
    # Each row has its own; what is left is of a stage that failed.
    failed = spans.seconds.pop("stages", 0.0) - sum(r.seconds or 0.0 for r in ledger.rows.values())
    if ledger.failed or status != "ok":
        spans.seconds["failed_stage"] = failed
    summary = UnitSummary(
        unit=spec.unit,
        status=status,
        error=text,
        host=host(),
        gpu=device.uuid,
        process_seconds=time.monotonic() - started,
        overhead_seconds={
            "process_start": process_start,
            "import": import_seconds,
            **spans.seconds,
        },
        started=began,
        probes=tuple(probes),
        machine=tuple(states),
    )
    place.check()
    finish_unit(unfinished, summary)


class _Place:
    """The folder of a unit, for as long as it is this worker's.

    One that was given up, as its node seemed lost, may still live when another has begun anew.
    """

    def __init__(self, unfinished: Path) -> None:
        self.path = unfinished
        # Open, so that no other folder can have its number while this process lives.
        self._began = os.open(unfinished, os.O_RDONLY)

    def check(self) -> None:
        """Ends this process if the folder is no longer the one it began with."""
        try:
            if os.path.samestat(self.path.stat(), os.fstat(self._began)):
                return
        except FileNotFoundError:
            pass
        sys.exit(f"{self.path} is another worker's now")

    def append(self, name: str, rows: Iterable[Row | StageRow]) -> None:
        """Rows to one of its files."""
        self.check()
        records.append(self.path / name, rows)


def _run_unit(place: _Place, spec: UnitSpec, ledger: MeasuringLedger, spans: Spans) -> None:
    """Every case of the unit through the pipeline; a record of each outcome as it is there."""
    unfinished = place.path
    _check_place(unfinished, spec)
    look_in(spec.functions)
    _check_functions(unfinished, spec)
    with spans("open_images"):
        source = _images(spec)
    if spec.kind == "profile":
        from bench.profiling import profile_unit  # which the measured units do not load

        with spans("profile"):
            profile_unit(unfinished, spec, source, ledger.device)
        return
    context = Context(
        seed=spec.cases[0].seed,
        device=str(ledger.device.torch_device),
        watch=ledger.steps.watch,
    )
    if spec.kind == "shared":
        for case in spec.cases:
            make_shared(pipeline_config((case,)), source, context, stages=ledger)
        return
    if spec.kind == "contest":
        [case] = spec.cases
        made = run_contest(case, source, context, ledger)
        found = scores(case, made, lambda result: ledger.rows[ledger.key_of(result)])
        results = [result for some in made.values() for result in some]
        with spans("write_records"):
            place.append(records.STAGES, ledger.new_rows())
            record = _record(case, spec, found, ledger.bill(*results))
            place.append(records.RECORDS, [record])
        return
    cases = {outcome_config(case): case for case in spec.cases}
    for attempt in attempts(pipeline_config(spec.cases), source, context, stages=ledger):
        case = cases[OutcomeConfig(epochs=attempt.epochs, sampling=attempt.sampling)]
        try:
            outcome = attempt.run()
        except Exception as error:  # the net is there for the outcomes that are still to come
            if _disk_is_full(error):
                raise
            record = records.failure_of(case, spec.unit, *_failure(error))
        else:
            record = _record_of(case, outcome, spec, ledger, _left_out(source))
        with spans("write_records"):
            # Its bill first: what is told of an outcome can be charged, however the process ends.
            place.append(records.STAGES, ledger.new_rows())
            place.append(records.RECORDS, [record])


def _check_place(unfinished: Path, spec: UnitSpec) -> None:
    """Raises ValueError if the device or the sources here are not those that the run began with."""
    known = records.read(unfinished.parent.parent / records.ENVIRONMENT, Environment)
    here = device_name(spec.device)
    if here != known.device_name and not spec.forced:
        raise ValueError(f"the device here is {here}, but the run began on {known.device_name}")
    if known.source_sha256 != LOADED_SHA256 and not spec.forced:
        raise ValueError(
            "the sources of dipddpm and bench are not those that the run began with: sha256 "
            f"{LOADED_SHA256}, it was {known.source_sha256}"
        )


def _check_functions(unfinished: Path, spec: UnitSpec) -> None:
    """Raises ValueError if a function of the user's is not the one that the run began with."""
    known = records.read(unfinished.parent.parent / records.PLAN, records.Plan).functions
    for name, content in functions_of(spec.cases).items():
        if content != known[name]:
            raise ValueError(
                f"{name} is of another file than when the run began: {source_file(name)}, sha256 "
                f"{content}, it was {known[name]}"
            )


def _images(spec: UnitSpec) -> ImageSource:
    """Raises ValueError if the images are no longer those of the run."""
    source = open_source(spec.images)
    if spec.images_sha256 not in ("", source.digest):
        raise ValueError(
            f"images of {spec.images} have changed since the run began: sha256 {source.digest}, "
            f"it was {spec.images_sha256}"
        )
    return source


def _left_out(source: ImageSource) -> tuple[str, ...]:
    """The files that are no images that can be used; of many the first, the plan names all."""
    lines = tuple(f"image left out: {text}" for text in source.skipped)
    if len(lines) <= MAX_LEFT_OUT:
        return lines
    return (*lines[:MAX_LEFT_OUT], f"{len(lines) - MAX_LEFT_OUT} more images left out")


def _disk_is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in records.DISK_ERRORS


def _failure(error: Exception) -> tuple[Status, str]:
    """What a record says of it; the traceback goes to the unit's log."""
    traceback.print_exception(error)
    status: Status = "oom" if is_out_of_memory(error) else "error"
    # The notes name the stage, be it a function of the user's.
    text = " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    return status, shortened(text)


def _record_of(
    case: Case, outcome: Outcome, spec: UnitSpec, ledger: MeasuringLedger, warnings: tuple[str, ...]
) -> Record:
    scores = {name: value for part in outcome.scores for name, value in part.values.items()}
    warned = [text for part in outcome.scores for text in part.warnings]
    record = _record(case, spec, scores, ledger.bill(*outcome.scores))
    told = (*record.warnings, *warnings, *dict.fromkeys(warned))
    return record.model_copy(update={"samples": ledger.key_of(outcome.samples), "warnings": told})


def _record(
    case: Case, spec: UnitSpec, scores: dict[str, float], stages: tuple[str, ...]
) -> Record:
    undefined = sorted(name for name, value in scores.items() if math.isnan(value))
    part = str(case.settings["contest"]) if is_contest(case) else "all"
    return Record(
        case_id=case.case_id,
        repeat=case.repeat,
        seed=case.seed,
        unit=spec.unit,
        status="nan" if undefined else "ok",
        error=f"not a number: {', '.join(undefined)}" if undefined else None,
        settings=case.settings,
        scores=scores,
        stages=stages,
        warnings=(*spec.forced, *guard_rails(pipeline_config((case,)), spec.device, part)),
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python's, CUDA's or torch's allocator had no more."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What torch raises on the CPU is a plain RuntimeError.
    words = ("can't allocate memory", "std::bad_alloc")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _needed_artifacts(units: Path, spec: UnitSpec) -> dict[str, tuple[Path, str]]:
    found = {}
    for unit in spec.needs:
        folder = units / unit
        for row in records.read_lines(folder / records.STAGES, records.StageRow):
            if row.artifact_sha256 is not None:
                found[row.key] = (folder, row.artifact_sha256)
    return found
