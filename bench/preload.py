"""What the forkserver loads once for all workers; imported by nobody else, for it dies with its
parent."""

from __future__ import annotations

from bench import environment, worker
from bench.lifeline import be_killed_with_parent

__all__ = ["environment", "worker"]

# It waits for its workers before it ends by itself, and one of them may hang.
be_killed_with_parent()
