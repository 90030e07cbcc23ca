"""Checkouts of this project with commits of their own, to compare."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.commits.trees import Repository, Tree, tree_sha256

ROOT = Path(__file__).parents[1]
TRAINING = "dipddpm/training.py"
SCHEDULE = "dipddpm/diffusion.py"
# Where a training step, and the building of a noise schedule, may be given more to do.
IN_STEP = "        loss = torch.zeros((), device=self.device)\n"
IN_SCHEDULE = "def build_noise_scheduler(schedule: NoiseScheduleConfig) -> DDPMScheduler:\n"


@dataclass(frozen=True)
class Checkout:
    """A git repository."""

    folder: Path

    @classmethod
    def of_this(cls, folder: Path) -> Checkout:
        """This project as it is now, as one commit."""
        Repository(ROOT).take_all(Tree("working tree", "", "", is_working_tree=True), folder)
        found = cls(folder)
        found.git("init", "--quiet", "--initial-branch=main")
        found.commit("first")
        return found

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        """All that is there; its hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def change(self, file: str, old: str, new: str) -> None:
        """`old` must be there once."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, (file, old)
        path.write_text(text.replace(old, new), encoding="utf-8")

    def state(self) -> tuple[str, str, bytes]:
        """What must not be touched: what git says of it, its files, and git's index."""
        index = (self.folder / ".git" / "index").read_bytes()
        digests = [tree_sha256(self.folder / name) for name in ("dipddpm", "bench", "reports")]
        return self.git("--no-optional-locks", "status", "--porcelain"), " ".join(digests), index

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`python -m bench.commits` in it, as a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "bench.commits", *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Its status, what it printed, and what it said is wrong."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=600)
            finally:
                process.kill()
        return process.returncode, out, err
