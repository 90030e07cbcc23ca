from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.artifacts import ArtifactError, Artifacts, artifact_path, from_bytes, to_bytes
from dipddpm.dip import Priors
from dipddpm.images import ImageSet
from dipddpm.sampling import Samples
from dipddpm.scoring import Scores

X = torch.randn(2, 3, 4, 4)
RESULTS = [
    ImageSet(X),
    Samples(X),
    Priors(X, torch.rand(5, 2), torch.stack([X, X]), torch.tensor([1, 5])),
    Scores({"a": 1.5, "b": float("nan"), "c": float("inf")}, {"a": torch.rand(2).double()}),
    Scores({}, {}),
]


def flat(result: Any) -> list[Any]:
    values: list[Any] = []
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        values.extend(sorted(value.items()) if isinstance(value, dict) else [value])
    return values


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, tuple):
        return all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right or (left != left and right != right))


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_comes_back_as_it_was(result: Any) -> None:
    back = from_bytes(to_bytes(result))
    assert type(back) is type(result)
    pairs = zip(flat(result), flat(back), strict=True)
    assert all(same(left, right) for left, right in pairs)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    sha256 = Artifacts(tmp_path, {}, keep_all=True, keep_checkpoints=False).keep("k", ImageSet(X))
    assert sha256 is not None
    reader = Artifacts(tmp_path, {"k": (tmp_path, sha256)}, keep_all=True, keep_checkpoints=False)
    loaded = reader.load("k")
    assert isinstance(loaded, ImageSet)
    assert torch.equal(loaded.pixels, X)
    assert reader.load("another") is None
    path = artifact_path(tmp_path, "k")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"k\.safetensors"):
        reader.load("k")


def test_a_foreign_safetensors_file_is_refused() -> None:
    from safetensors.torch import save

    for metadata in (None, {"result": '{"kind": "TrainedNet"}'}, {"result": '{"kind": "system"}'}):
        with pytest.raises(ArtifactError):
            from_bytes(save({"pixels": X}, metadata))


def test_training_units_keep_samples_and_scores_only(tmp_path: Path) -> None:
    keeping = Artifacts(tmp_path, {}, keep_all=False, keep_checkpoints=False)
    kept = {type(result).__name__: keeping.keep("k", result) is not None for result in RESULTS}
    assert kept == {"ImageSet": False, "Priors": False, "Samples": True, "Scores": True}
