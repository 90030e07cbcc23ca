"""One unit in one fresh process: spec.json in, records, stages and artifacts out.

python -m bench.worker RUN/units/UNIT.part
"""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench import records
from bench.artifacts import Artifacts
from bench.cases import functions_of, outcome_config, pipeline_config
from bench.ledger import MeasuringLedger
from bench.lifeline import end_with
from bench.meters import SharedCounter, Spans
from bench.records import Case, Record, Status, UnitSpec, UnitSummary
from bench.warmup import wake
from dipddpm.config import Context, OutcomeConfig
from dipddpm.dip import fit_priors
from dipddpm.guard_rails import guard_rails
from dipddpm.lookup import look_in, source_file
from dipddpm.pipeline import Outcome, attempts, make_shared
from dipddpm.sources import ImageSource, open_source

# How many unusable files the warnings of a record name.
MAX_LEFT_OUT = 20


def main(unfinished: Path, started: float) -> None:
    """Runs the unit of `unfinished`/spec.json and renames its folder when it is whole.

    started: time.monotonic() at which the process was asked for. A failure is a result too: the
    records of what it kept from being done say so.
    """
    process_start = time.monotonic() - started
    spans = Spans()
    # What the imports made is there for good: no later collection has to walk through it.
    gc.freeze()
    with spans("prepare_unit"):
        spec = records.read(unfinished / records.SPEC, UnitSpec)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        ledger = MeasuringLedger(
            spec.unit,
            spec.device,
            Artifacts(
                unfinished / records.ARTIFACTS,
                _needed_artifacts(unfinished.parent, spec),
                keep_all=spec.kind == "shared",
                keep_checkpoints=spec.keep_checkpoints,
            ),
            spans,
            counter=SharedCounter(unfinished / records.PROGRESS),
            # A fit just before would speed up the training that follows it in the same process.
            refused=frozenset({fit_priors}) if spec.kind == "train" else frozenset(),
        )
    status: Status = "ok"
    text = None
    with spans("pipeline"):
        try:
            run_unit(unfinished, spec, ledger, spans)
        except Exception as error:  # whatever it is becomes a row, and the grid goes on
            status, text = _failure(error)
            records.record_failure(unfinished, spec, status, text)
    with spans("finish_unit"):
        records.append(unfinished / records.STAGES, ledger.new_rows())
        (unfinished / records.PROGRESS).unlink()
    # Each row has its own; what is left is of a stage that failed.
    failed = spans.seconds.pop("stages", 0.0) - sum(r.seconds or 0.0 for r in ledger.rows.values())
    if ledger.failed or status != "ok":
        spans.seconds["failed_stage"] = failed
    records.write(
        unfinished / records.SUMMARY,
        UnitSummary(
            unit=spec.unit,
            status=status,
            error=text,
            process_seconds=time.monotonic() - started,
            overhead_seconds={"process_start": process_start, **spans.seconds},
            started=began,
            load_average=os.getloadavg()[0],
        ),
    )
    records.finish_unit(unfinished)


def run_unit(unfinished: Path, spec: UnitSpec, ledger: MeasuringLedger, spans: Spans) -> None:
    """Every case of the unit through the pipeline; a record of each outcome as it is there."""
    device = "cuda:0" if spec.device == "cuda" else spec.device
    look_in(spec.functions)
    _check_functions(unfinished, spec)
    with spans("open_images"):
        source = _images(spec)
    with spans("wake_device"):
        wake(torch.device(device))
    context = Context(seed=spec.cases[0].seed, device=device, watch=ledger.steps.watch)
    if spec.kind == "shared":
        for case in spec.cases:
            make_shared(pipeline_config((case,)), source, context, stages=ledger)
        return
    cases = {outcome_config(case): case for case in spec.cases}
    for attempt in attempts(pipeline_config(spec.cases), source, context, stages=ledger):
        case = cases[OutcomeConfig(epochs=attempt.epochs, sampling=attempt.sampling)]
        try:
            outcome = attempt.run()
        except Exception as error:  # the net is there for the outcomes that are still to come
            record = records.failure_of(case, spec.unit, *_failure(error))
        else:
            warnings = (*guard_rails(pipeline_config((case,)), spec.device), *_left_out(source))
            record = _record(case, outcome, spec, ledger, warnings)
        with spans("write_records"):
            # Its bill first: what is told of an outcome can be charged, however the process ends.
            records.append(unfinished / records.STAGES, ledger.new_rows())
            records.append(unfinished / records.RECORDS, [record])


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


def _failure(error: Exception) -> tuple[Status, str]:
    """What a record says of it; the traceback goes to the unit's log."""
    traceback.print_exception(error)
    status: Status = "oom" if is_out_of_memory(error) else "error"
    # The notes name the stage, be it a function of the user's.
    return status, " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def _record(
    case: Case, outcome: Outcome, spec: UnitSpec, ledger: MeasuringLedger, warnings: tuple[str, ...]
) -> Record:
    scores = {name: value for part in outcome.scores for name, value in part.values.items()}
    warned = [text for part in outcome.scores for text in part.warnings]
    undefined = sorted(name for name, value in scores.items() if math.isnan(value))
    return Record(
        case_id=case.case_id,
        repeat=case.repeat,
        seed=case.seed,
        unit=spec.unit,
        status="nan" if undefined else "ok",
        error=f"not a number: {', '.join(undefined)}" if undefined else None,
        settings=case.settings,
        scores=scores,
        samples=ledger.key_of(outcome.samples),
        stages=ledger.bill(*outcome.scores),
        warnings=(*warnings, *dict.fromkeys(warned)),
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python's, CUDA's or torch's allocator had no more."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What torch's allocator on the CPU raises is a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _needed_artifacts(units: Path, spec: UnitSpec) -> dict[str, tuple[Path, str]]:
    found = {}
    for unit in spec.needs:
        folder = units / unit
        for row in records.read_lines(folder / records.STAGES, records.StageRow):
            if row.artifact_sha256 is not None:
                found[row.key] = (folder / records.ARTIFACTS, row.artifact_sha256)
    return found


if __name__ == "__main__":
    if "DIPDDPM_PARENT" in os.environ:
        end_with(int(os.environ["DIPDDPM_PARENT"]))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(Path(sys.argv[1]), float(os.environ.get("DIPDDPM_STARTED", time.monotonic())))
