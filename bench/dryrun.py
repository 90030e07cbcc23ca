"""What a suite would do: the pipeline under a ledger that books every call and performs none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.table import Table

from bench.cases import pipeline_config
from bench.errors import UserError
from bench.ledger import BookingLedger
from bench.records import UnitSpec
from dipddpm.config import Context
from dipddpm.encoded import EncodedImages
from dipddpm.inputs import NUM_REFERENCES
from dipddpm.pipeline import make_shared, run_pipeline
from dipddpm.sources import ImageSource

MAX_IMAGES = 1_000_000


def book(units: Iterable[UnitSpec]) -> tuple[Counter[str], Counter[str]]:
    """Calls by stage: what every case alone would take, and what the run takes."""
    units = list(units)
    source = _stand_in(units)
    alone: Counter[str] = Counter()
    shared: Counter[str] = Counter()
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
        else:
            config = pipeline_config(spec.cases)
            for outcome in run_pipeline(config, source, context, stages=ledger):
                alone.update(ledger.rows[key].function for key in ledger.bill(*outcome.scores))
        shared.update(row.function for row in ledger.rows.values() if row.executed)
    return alone, shared


def _stand_in(units: Iterable[UnitSpec]) -> ImageSource:
    """Images that are never opened, as many as are asked for: which they are moves no count.

    Raises UserError if that is more than MAX_IMAGES.
    """
    cases = [case for spec in units for case in spec.cases]
    parts = []
    for field, least in (("num_images", NUM_REFERENCES), ("num_held_out", 1)):
        count = max([least, *(int(str(case.settings[field])) for case in cases)])
        if count > MAX_IMAGES:
            raise UserError(f"{field} must be at most {MAX_IMAGES} in a dry run, got {count}")
        parts.append(EncodedImages(tuple(f"{field} {i}".encode() for i in range(count))))
    train, held_out = parts
    return ImageSource("stand-in", train, held_out)


def table(units: list[UnitSpec]) -> Table:
    """How often each stage is called, by each case alone and after reuse."""
    alone, shared = book(units)
    found = Table(title=f"{len(units)} units; calls of each stage", title_justify="left")
    found.add_column("stage")
    for name in ("each case alone", "this run"):
        found.add_column(name, justify="right")
    for stage in shared:
        found.add_row(stage, str(alone[stage]), str(shared[stage]))
    return found
