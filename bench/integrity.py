"""Whether what a unit wrote is what lies there. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from bench.errors import UserError
from bench.records import RECORDS, STAGES, UnitSpec
from bench.run_folder import Run, artifact_file, sha256_of, trace_file


def damage(run: Run, spec: UnitSpec) -> str | None:
    """What is wrong with the files of a unit that is done, in one line; None: nothing."""
    folder = run.unit_folder(spec.unit)
    try:
        summary = run.summary(spec.unit)
        rows = run.stage_rows_of(spec.unit)
        profiles = run.profiles_of(spec.unit)
        if summary.status == "ok" and not (rows or profiles):
            return f"{folder / STAGES}: no stage of a unit that is done"
        if spec.gives_records:
            told = sorted((one.case_id, one.repeat) for one in run.records_of(spec.unit))
            if told != sorted((case.case_id, case.repeat) for case in spec.cases):
                return f"{folder / RECORDS}: its records are not those of the unit's cases"
    except UserError as error:
        return str(error)
    written: dict[Path, str | None] = {
        folder / name: sha256 for name, sha256 in summary.rows_sha256.items()
    }
    written |= {artifact_file(folder, row.key): row.artifact_sha256 for row in rows}
    written |= {trace_file(folder, row.function): row.trace_sha256 for row in profiles}
    # `bench clean` deletes checkpoints.
    checkpoints = {artifact_file(folder, f"{row.key}.ema"): row.checkpoint_sha256 for row in rows}
    written |= {path: sha256 for path, sha256 in checkpoints.items() if path.exists()}
    for path, sha256 in written.items():
        if sha256 is None:
            continue
        try:
            found = sha256_of(path)
        except OSError as error:
            return f"{path}: {error.strerror}"
        if found != sha256:
            return f"{path}: its content is not what was written"
    return None
