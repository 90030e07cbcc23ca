from __future__ import annotations

import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.artifacts import _KINDS, ArtifactError, Artifacts, from_bytes, to_bytes
from bench.run_folder import artifact_file
from dipddpm import arms, dip, features, images, sampling, scoring
from dipddpm.config import Context, DIPConfig
from dipddpm.dip import fit_priors
from dipddpm.encoded import EncodedImages
from dipddpm.features import Features
from dipddpm.images import ImageSet
from dipddpm.sampling import Samples
from dipddpm.scoring import Scores

X = torch.randn(2, 3, 4, 4)
RESULTS = [
    ImageSet(X),
    Samples(X),
    Features(torch.rand(2, 5)),
    # As a fit leaves them: with NaN after a stop, and stacked views of one another.
    fit_priors(
        ImageSet(torch.rand(2, 3, 8, 8)),
        DIPConfig(num_iter=12, early_stopping="es_wmv", es_window=2, es_patience=3),
        Context(),
    ),
    Scores(
        {"a": 1.5, "b": float("nan"), "c": float("inf")},
        {"a": torch.rand(2).double()},
        ("careful", "of this"),
    ),
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
        return left.dtype == right.dtype and torch.allclose(left, right, 0, 0, equal_nan=True)
    if isinstance(left, tuple):
        return type(right) is tuple and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right or (left != left and right != right))


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_comes_back_as_it_was(result: Any) -> None:
    back = from_bytes(to_bytes(result))
    assert type(back) is type(result)
    pairs = zip(flat(result), flat(back), strict=True)
    assert all(same(left, right) for left, right in pairs)


def test_fields_that_are_one_tensor_come_back(objects16: ImageSet) -> None:
    priors = fit_priors(objects16, DIPConfig(num_iter=1), Context())
    iters = priors.spent_iters
    # What shares its memory, or is not contiguous, safetensors would refuse.
    aliased = dataclasses.replace(
        priors, output_iters=iters, snapshots=priors.outputs[None], losses=priors.losses.T
    )
    back = from_bytes(to_bytes(aliased))
    assert all(same(left, right) for left, right in zip(flat(aliased), flat(back), strict=True))
    assert to_bytes(back) == to_bytes(aliased)


def test_every_kind_of_result_but_nets_and_files_can_be_kept() -> None:
    """Those that stages return, by their annotations: a unit that works for others keeps them."""
    returned = {
        typing.get_type_hints(function)["return"]
        for module in (arms, dip, features, images, sampling, scoring)
        for function in vars(module).values()
        if inspect.isfunction(function) and function.__module__ == module.__name__
    }
    results = {kind for kind in returned if dataclasses.is_dataclass(kind)}
    assert results - set(_KINDS.values()) == {EncodedImages}


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    told = Artifacts(tmp_path, {}, keep_all=True, keep_checkpoints=False).keep("k", ImageSet(X))
    needed = {"k": (tmp_path, told["artifact_sha256"])}
    reader = Artifacts(tmp_path, needed, keep_all=True, keep_checkpoints=False)
    loaded = reader.load("k")
    assert isinstance(loaded, ImageSet)
    assert torch.equal(loaded.pixels, X)
    assert reader.load("another") is None
    path = artifact_file(tmp_path, "k")
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
    kept = {type(result).__name__: bool(keeping.keep("k", result)) for result in RESULTS}
    assert {name for name, is_kept in kept.items() if is_kept} == {"Samples", "Scores"}
