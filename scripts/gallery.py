"""Puts a run into the gallery: its page, and its records without artifacts.

    python -m reports build runs/NAME && python -m scripts.gallery runs/NAME

reports/gallery/NAME/records.zip is a run folder: unpacked, `python -m reports build` makes the same
tables and verdicts of it; pictures, which are artifacts, are in the page alone.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from bench.records import (
    ENVIRONMENT,
    PLAN,
    PROFILE,
    RECORDS,
    SPEC,
    STAGES,
    SUITE,
    SUMMARY,
)
from bench.run_folder import Run

GALLERY = Path(__file__).parents[1] / "reports" / "gallery"
PAGE = ("report.html", "report.md", "results.csv", "summary.json")
OF_RUN = (PLAN, ENVIRONMENT, SUITE)
OF_UNIT = (SPEC, RECORDS, STAGES, SUMMARY, PROFILE)


def main(folder: Path, gallery: Path = GALLERY) -> None:
    """The entry is there whole or as it was."""
    run = Run.open(folder)
    files = [folder / name for name in OF_RUN]
    for spec in run.done():
        files += [path for name in OF_UNIT if (path := run.unit_folder(spec.unit) / name).exists()]
    unfinished = gallery / f"{folder.name}.part"
    unfinished.mkdir(parents=True)
    for name in PAGE:
        shutil.copyfile(folder / name, unfinished / name)
    with ZipFile(unfinished / "records.zip", "w", ZIP_DEFLATED, compresslevel=9) as archive:
        for path in files:
            # Of no date, so that the same records are the same bytes.
            entry = ZipInfo(str(Path(folder.name) / path.relative_to(folder)))
            entry.compress_type = ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    entry_folder = gallery / folder.name
    shutil.rmtree(entry_folder, ignore_errors=True)
    unfinished.rename(entry_folder)
    print(entry_folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
