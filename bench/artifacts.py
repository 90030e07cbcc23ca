"""Stage results on disk: one safetensors file a result, checked by its digest when it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bench.run_folder import artifact_file
from dipddpm.dip import Initialisation, Priors
from dipddpm.features import Features
from dipddpm.images import ImageSet
from dipddpm.sampling import Samples
from dipddpm.scoring import Scores
from dipddpm.training import TrainedNet

# What a file may hold, by the name it is marked with.
_KINDS = {
    kind.__name__: kind for kind in (Features, ImageSet, Initialisation, Priors, Samples, Scores)
}


class ArtifactError(Exception):
    """A file is not what was written."""


def to_bytes(result: Any) -> bytes:
    """A stage result, a frozen dataclass of tensors and dicts, as a safetensors file."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Tensor):
            # Copied, for two fields may be one tensor, which safetensors refuses.
            tensors[field.name] = value.clone(memory_format=torch.contiguous_format)
        elif (
            isinstance(value, dict)
            and value
            and all(isinstance(item, Tensor) for item in value.values())
        ):
            tensors |= {f"{field.name}/{name}": item.contiguous() for name, item in value.items()}
        else:
            plain[field.name] = value
    # One entry: safetensors writes several in an order of its own, and equal results must be
    # equal bytes.
    about = {"kind": type(result).__name__, "plain": plain}
    return save_tensors(tensors, {"result": json.dumps(about, sort_keys=True)})


def from_bytes(data: bytes) -> Any:
    """The reverse of `to_bytes`. Raises ArtifactError for what it never writes."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = json.loads(header.get("__metadata__", {}).get("result", "{}"))
    kind = _KINDS.get(about.get("kind", ""))
    if kind is None:
        raise ArtifactError(f"holds {about.get('kind')!r}, not a stage result")
    # JSON has no tuples, and results have no lists.
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in about["plain"].items()
    }
    for name, tensor in load_tensors(data).items():
        field, _, item = name.partition("/")
        if item:
            fields.setdefault(field, {})[item] = tensor
        else:
            fields[field] = tensor
    return kind(**fields)


class Artifacts:
    """What a unit writes, and what it may load from the units it needs.

    unit: the folder of the unit that keeps results
    needed: the folder of a unit and the sha256 of its result, by key
    keep_all: keep every result that can be kept, as a unit does that works for others
    """

    def __init__(
        self,
        unit: Path,
        needed: Mapping[str, tuple[Path, str]],
        *,
        keep_all: bool,
        keep_checkpoints: bool,
    ) -> None:
        self._unit = unit
        self._needed = needed
        self._kept: tuple[type, ...] = tuple(_KINDS.values()) if keep_all else (Samples, Scores)
        self._keep_checkpoints = keep_checkpoints

    def load(self, key: str) -> Any | None:
        """The result of that key, None if no needed unit has one.

        Raises ArtifactError, naming the file, if its content is not what was written.
        """
        if key not in self._needed:
            return None
        unit, sha256 = self._needed[key]
        path = artifact_file(unit, key)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactError(f"{path}: its content is not what was written")
        return from_bytes(data)

    def keep(self, key: str, result: Any) -> dict[str, str]:
        """Writes a result, if results of its kind are kept; returns what its row has to tell."""
        if isinstance(result, TrainedNet):
            if not self._keep_checkpoints:
                return {}
            return {
                "checkpoint_sha256": self._write(
                    f"{key}.ema",
                    save_tensors({k: one.contiguous() for k, one in result.ema_weights.items()}),
                )
            }
        if not isinstance(result, self._kept):
            return {}
        return {"artifact_sha256": self._write(key, to_bytes(result))}

    def _write(self, name: str, data: bytes) -> str:
        path = artifact_file(self._unit, name)
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        return hashlib.sha256(data).hexdigest()
