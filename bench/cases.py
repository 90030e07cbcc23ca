"""From the settings of a case, by field, to the configs of dipddpm and back. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
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


def build(config: type, settings: Mapping[str, Setting], **given: Any) -> Any:
    """An instance of `config` and of those nested in it, from settings by field."""
    values = dict(given)
    for name, hint in field_types(config).items():
        if name in given or name == "outcomes":
            continue
        if dataclasses.is_dataclass(hint):
            values[name] = build(cast(type, hint), settings)
        elif name in settings:
            values[name] = settings[name]
    return config(**values)


def settings_of(config: Any) -> dict[str, Setting]:
    """The reverse of `build`: every field by name, defaults spelled out."""
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= settings_of(value)
        elif field.name != "outcomes":
            found[field.name] = value
    return found


def new_case(settings: dict[str, Setting], images: str, seed: int, repeat: int) -> Case:
    """A case, named by what it computes: of its settings, images and seed, not of its repeat."""
    settings = {**settings, "images": images}
    return Case(case_id=digest([settings, seed]), repeat=repeat, seed=seed, settings=settings)


def digest(content: list[Any]) -> str:
    """12 hexadecimal digits for what JSON can say."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
