"""A worker in a new interpreter: python -m bench.spawned RUN/units/UNIT.part

DIPDDPM_STARTED: time.monotonic() at which it was asked for. DIPDDPM_PARENT: the number of a pipe,
open until the process that asked is gone; the worker ends with it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench.lifeline import end_with, ignore_interrupts


def main() -> None:
    """Loads torch and runs the unit."""
    if "DIPDDPM_PARENT" in os.environ:
        end_with(int(os.environ["DIPDDPM_PARENT"]))
        ignore_interrupts()
    begun = time.monotonic()
    from bench import worker

    worker.main(
        Path(sys.argv[1]),
        float(os.environ.get("DIPDDPM_STARTED", begun)),
        import_seconds=time.monotonic() - begun,
    )


if __name__ == "__main__":
    main()
