"""Whether what a unit wrote is what lies there. Imports no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench.records import ARTIFACTS, RECORDS, STAGES, Run, UnitSpec, UserError, trace_file


def damage(run: Run, spec: UnitSpec) -> str | None:
    """What is wrong with the files of a unit that is done, in one line; None: nothing."""
    folder = run.unit_folder(spec.unit)
    try:
        summary = run.summary(spec.unit)
        rows = run.stage_rows_of(spec.unit)
        profiles = run.profiles_of(spec.unit)
        if summary.status == "ok" and not (rows or profiles):
            return f"{folder / STAGES}: no stage of a unit that is done"
        if spec.kind == "train":
            told = sorted((one.case_id, one.repeat) for one in run.records_of(spec.unit))
            if told != sorted((case.case_id, case.repeat) for case in spec.cases):
                return f"{folder / RECORDS}: its records are not those of the unit's cases"
    except UserError as error:
        return str(error)
    written: dict[Path, str | None] = {
        folder / ARTIFACTS / f"{row.key}.safetensors": row.artifact_sha256 for row in rows
    }
    written |= {trace_file(folder, row.function): row.trace_sha256 for row in profiles}
    for path, sha256 in written.items():
        if sha256 is None:
            continue
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            return f"{path}: {error.strerror}"
        if found != sha256:
            return f"{path}: its content is not what was written"
    return None
