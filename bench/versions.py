"""Rows of earlier versions of the file format, as rows of this one. Imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_Content = dict[str, Any]


def upgraded(kind: str, content: Any, version: int) -> Any:
    """A row as `version` writes it, from whichever version wrote it.

    kind: the name of its class
    Raises ValueError for a version that is not known here.
    """
    if not isinstance(content, dict) or "schema_version" not in content:
        return content
    written = content["schema_version"]
    if type(written) is not int or not 1 <= written <= version:
        newer = type(written) is int and written > version
        raise ValueError(
            f"schema_version must be from 1 to {version}, got {written!r}"
            f"{'; a newer dipddpm reads it' if newer else ''}"
        )
    if written == version:
        return content
    for step in _STEPS[written - 1 : version - 1]:
        content = step(kind, content)
    return {**content, "schema_version": version}


def _to_2(kind: str, content: _Content) -> _Content:
    if kind == "UnitSpec":
        shared = {"kind": "shared"} if content["kind"] == "priors" else {}
        # There were no functions of the user's.
        return {**content, **shared, "functions": "."}
    if kind in ("Case", "Record"):
        return {**content, "settings": {**_BEFORE_2, **content["settings"]}}
    return content


def _to_3(kind: str, content: _Content) -> _Content:
    if kind in ("Case", "Record"):
        return {**content, "settings": {**_BEFORE_3, **content["settings"]}}
    if kind == "UnitSummary":
        return {name: value for name, value in content.items() if name != "load_average"}
    return content


def _to_4(kind: str, content: _Content) -> _Content:
    if kind in ("Case", "Record"):
        return {**content, "settings": {**_BEFORE_4, **content["settings"]}}
    return content


# What was in force before there was a setting for it.
_BEFORE_2: _Content = {
    "protocol": "corrected",
    "condition_on": "nothing",
    "num_workers": 0,
    "flip": "device",
    "net": "paper",
    "net_input": "shared",
    "reg_noise_std": 0.0,
    "early_stopping": "none",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "lr_schedule": "constant",
    "ema_ramp": True,
    "mixed_precision": "no",
    "score_range": "common",
    "ssim_digits": None,
}
_BEFORE_3: _Content = {"files": "source"}
_BEFORE_4: _Content = {
    "contest": "none",
    "contender": "dipddpm",
    "backend": "grouped",
    "warm_start": "none",
    "warm_start_iter": 100,
    "prior_adam_beta1": 0.9,
    "es_psnr": 30.0,
    "prior_precision": "no",
    "prior_channels_last": False,
    "prior_tf32": "convolutions",
    "prior_cuda_graph": False,
    "gradient_accumulation_steps": 1,
    "channels_last": False,
    "tf32": "convolutions",
    "attention": "sdpa",
    "compile": "no",
    "cuda_graph": False,
    "fused_adamw": True,
    "foreach_ema": True,
    "num_threads": None,
    "samples_per_batch": None,
    "sampling_precision": "no",
    "sampling_channels_last": False,
    "sampling_tf32": "convolutions",
    "sampling_attention": "sdpa",
    "sampling_compile": "no",
    "sampling_cuda_graph": False,
}

_STEPS: tuple[Callable[[str, _Content], _Content], ...] = (_to_2, _to_3, _to_4)
