"""From the settings of a case, by field, to the configs of dipddpm and back. Imports no torch."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final, cast

from bench.records import Case, Setting
from dipddpm.checks import field_types
from dipddpm.config import OutcomeConfig, PipelineConfig
from dipddpm.lookup import source_file

# What a case may be of, a training run with its outcomes or a contest, and who may take part in it.
CONTENDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "none": ("dipddpm",),
    "priors": ("dipddpm", "paper loop"),
    "train": ("dipddpm", "tutorial"),
    # Samples of a net of another seed: how far apart those of equally good nets are.
    "sample": ("dipddpm", "DDPMPipeline", "another seed"),
}
# What a contest has, whoever takes part in it.
_CONTESTED: Final[Mapping[str, tuple[Setting, ...]]] = {
    "train_on": ("images",),
    "condition_on": ("nothing",),
    "task": ("generate",),
    "start_from": ("noise",),
}
# What else a baseline is: the settings that it has, of those that it cannot follow.
_FIXED: Final[Mapping[str, Mapping[str, tuple[Setting, ...]]]] = {
    "paper loop": {
        "net": ("paper",),
        "early_stopping": ("none", "psnr"),
        "reg_noise_std": (0.0,),
        "backend": ("auto",),
        "warm_start": ("none",),
        "prior_adam_beta1": (0.9,),
        "prior_precision": ("no",),
        "prior_channels_last": (None,),
        "prior_tf32": ("convolutions",),
        "prior_cuda_graph": (False,),
    },
    "tutorial": {
        "prediction_type": ("epsilon",),
        "lr_schedule": ("cosine",),
        "ema_decay": (0.0,),
        "loader": ("memory", "decode"),
        "num_workers": (0,),
        "max_grad_norm": (1.0,),
        "gradient_accumulation_steps": (1,),
        "channels_last": (False,),
        "tf32": ("convolutions",),
        "attention": ("auto",),
        "compile": ("no",),
        "cuda_graph": (False,),
        "fused_adamw": (True,),
        "foreach_ema": (True,),
        "num_threads": (None,),
    },
    "DDPMPipeline": {
        "sampler": ("ddpm",),
        "timestep_spacing": ("leading",),
        "samples_per_batch": (None,),
        "sampling_precision": ("no",),
        "sampling_channels_last": (False,),
        "sampling_tf32": ("convolutions",),
        "sampling_attention": ("auto",),
        "sampling_compile": ("no",),
        "sampling_cuda_graph": (False,),
    },
}


def check_contest(contest: str, contender: str, settings: Mapping[str, Setting]) -> None:
    """Raises ValueError if a contender would do other work than its settings say.

    What a baseline draws by itself is no work: its noise, its order, its flips, its net's input.
    """
    if contender not in CONTENDERS[contest]:
        raise ValueError(
            f"contender must be one of {', '.join(CONTENDERS[contest])} with contest = {contest}, "
            f"got {contender!r}"
        )
    if contest == "none":
        return
    fixed = {**_CONTESTED, **_FIXED.get(contender, {})}
    for name, values in fixed.items():
        if settings[name] not in values:
            whose = f"contender = {contender}" if name not in _CONTESTED else f"contest = {contest}"
            some = " or ".join(map(repr, values))
            raise ValueError(f"{name} must be {some} with {whose}, got {settings[name]!r}")


def pipeline_config(cases: tuple[Case, ...]) -> PipelineConfig:
    """The training run that gives all of `cases`, which differ in outcome settings only.

    Raises ValueError, naming field and value, if a value cannot be.
    """
    outcomes = tuple(build(OutcomeConfig, case.settings) for case in cases)
    config: PipelineConfig = build(PipelineConfig, cases[0].settings, outcomes=outcomes)
    return config


def outcome_config(case: Case) -> OutcomeConfig:
    """What is asked of the net. Raises ValueError with the field and its value."""
    config: OutcomeConfig = build(OutcomeConfig, case.settings)
    return config


def functions_of(cases: Iterable[Case]) -> dict[str, str]:
    """The sha256 of the file of each function of the user's that a case names."""
    named = {str(case.settings[field]) for case in cases for field in ("train_on", "start_from")}
    files = {name: source_file(name) for name in sorted(named)}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file
    }


def fields_of(config: type) -> dict[str, Any]:
    """Field -> type, of a config and of those nested in it."""
    found: dict[str, Any] = {}
    for name, hint in field_types(config).items():
        if name == "outcomes":
            continue
        if dataclasses.is_dataclass(hint):
            found |= fields_of(cast(type, hint))
        else:
            found[name] = hint
    return found


OUTCOME_FIELDS = fields_of(OutcomeConfig)
FIELDS = fields_of(PipelineConfig) | OUTCOME_FIELDS


@functools.cache
def _nested(config: Hashable) -> dict[str, type | None]:
    """The fields of a config, each with its class if it is a config itself."""
    return {
        name: cast(type, hint) if dataclasses.is_dataclass(hint) else None
        for name, hint in field_types(config).items()
        if name != "outcomes"
    }


def build(config: type, settings: Mapping[str, Setting], **given: Any) -> Any:
    """An instance of `config` and of those nested in it, from settings by field."""
    values = dict(given)
    for name, nested in _nested(config).items():
        if name in given:
            continue
        if nested is not None:
            values[name] = build(nested, settings)
        elif name in settings:
            values[name] = settings[name]
    return config(**values)


def settings_of(config: Any) -> dict[str, Setting]:
    """The reverse of `build`: every field by name, defaults spelled out."""
    found: dict[str, Setting] = {}
    for name, nested in _nested(config.__class__).items():
        value = getattr(config, name)
        if nested is not None:
            found |= settings_of(value)
        else:
            found[name] = value
    return found


def new_case(settings: dict[str, Setting], images: str, seed: int, repeat: int) -> Case:
    """A case, named by what it computes: of its settings, images and seed, not of its repeat."""
    settings = {**settings, "images": images}
    return Case(case_id=digest([settings, seed]), repeat=repeat, seed=seed, settings=settings)


def digest(content: list[Any]) -> str:
    """12 hexadecimal digits for what JSON can say."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
