"""Whether what a unit wrote is what lies there. Imports no torch."""

from __future__ import annotations

import hashlib

from bench.records import (
    ARTIFACTS,
    RECORDS,
    STAGES,
    Record,
    Run,
    StageRow,
    UnitSpec,
    UserError,
    read_lines,
)


def damage(run: Run, spec: UnitSpec) -> str | None:
    """What is wrong with the files of a unit that is done, in one line; None: nothing."""
    folder = run.unit_folder(spec.unit)
    try:
        summary = run.summary(spec.unit)
        path = folder / STAGES
        rows = read_lines(path, StageRow) if path.exists() or summary.status == "ok" else []
        if spec.kind == "train":
            told = {(one.case_id, one.repeat) for one in read_lines(folder / RECORDS, Record)}
            if told != {(case.case_id, case.repeat) for case in spec.cases}:
                return f"{folder / RECORDS}: its records are not those of the unit's cases"
    except UserError as error:
        return str(error)
    for row in rows:
        if row.artifact_sha256 is None:
            continue
        artifact = folder / ARTIFACTS / f"{row.key}.safetensors"
        try:
            found = hashlib.sha256(artifact.read_bytes()).hexdigest()
        except OSError as error:
            return f"{artifact}: {error.strerror}"
        if found != row.artifact_sha256:
            return f"{artifact}: its content is not what was written"
    return None
