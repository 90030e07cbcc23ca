"""A suite file: what it may say, the cases it means, and the units that run them. Imports no torch.

title = "one line"
about = "what it can and cannot show"
images = "objects"            # or a folder
[base]                        # settings of every case: any field of dipddpm.config, and seed
[[grid]]                      # one case for each combination of the lists
num_images = [32, 64]         # an axis
start_from = "dip"            # the same for the whole grid
repeat = [2]                  # runs of one case; an A-vs-A control is a second repeat
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.records import Case, Setting, UnitSpec, UserError
from dipddpm.config import (
    MADE_OF_PRIORS,
    DataConfig,
    DIPConfig,
    OutcomeConfig,
    PipelineConfig,
    RestorationConfig,
    SamplingConfig,
    UNetConfig,
)
from dipddpm.sources import OBJECTS, ImageSource

SUITES = Path(__file__).parent / "suites"
# More would take minutes to plan, and is a slip of the pen.
MAX_CASES = 20_000


class _SuiteFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    title: str
    about: str
    images: str = OBJECTS
    base: dict[str, Any] = {}
    grid: list[dict[str, Any]]


@dataclass(frozen=True)
class Suite:
    name: str
    file: str
    title: str
    about: str
    images: str
    text: str
    cases: tuple[Case, ...]


def names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load(suite: str, *, seed: int | None = None, images: str | None = None) -> Suite:
    """The suite of that name, or in that .toml file; `seed` and `images` replace what it says.

    Raises UserError with file, field and value if there is none, or it says what cannot be.
    """
    path = Path(suite) if suite.endswith(".toml") else SUITES / f"{suite}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"suite must be one of {', '.join(names())} or a .toml file, got {suite!r}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    return parse(text, str(path), path.stem, seed=seed, images=images)


def parse(
    text: str, file: str, name: str, *, seed: int | None = None, images: str | None = None
) -> Suite:
    """As `load`, from the text of a file."""
    try:
        content = _SuiteFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise UserError(f"{file}: {where}: {first['msg']}{got}") from error
    base = dict(content.base)
    if seed is not None:
        base["seed"] = seed
    if "" in (images, content.images):
        raise UserError(f"{file}: images must be {OBJECTS!r} or a folder, got ''")
    if images is None:
        images = content.images
        # A folder that a suite names lies beside the suite.
        if images != OBJECTS:
            images = str(Path(file).parent / images)
    if images != OBJECTS:
        images = str(Path(images).resolve())

    cases: dict[tuple[str, int], Case] = {}
    for number, grid in enumerate(content.grid, 1):
        where = f"{file}: grid {number}"
        for settings in _combinations(base, grid, file, where):
            case = _case(settings, images, where)
            if (case.case_id, case.repeat) in cases:
                varied = {key: case.settings.get(key, case.repeat) for key in grid}
                raise UserError(f"{where}: a case that is already there: {varied}; see `repeat`")
            cases[case.case_id, case.repeat] = case
    if not cases:
        raise UserError(f"{file}: grid must name at least one case, got []")
    return Suite(name, file, content.title, content.about, images, text, tuple(cases.values()))


def pipeline_config(cases: tuple[Case, ...]) -> PipelineConfig:
    """The training run that gives all of `cases`, which differ in outcome settings only.

    Raises ValueError, naming field and value, if a value cannot be.
    """
    outcomes = tuple(_build(OutcomeConfig, case.settings) for case in cases)
    config: PipelineConfig = _build(PipelineConfig, cases[0].settings, outcomes=outcomes)
    return config


def outcome_config(case: Case) -> OutcomeConfig:
    config: OutcomeConfig = _build(OutcomeConfig, case.settings)
    return config


def units(
    suite: Suite, source: ImageSource, *, seed: int, device: str, keep_checkpoints: bool = False
) -> list[UnitSpec]:
    """The units of a suite in the order in which they run: priors first, then training runs.

    Training runs that differ in their arm alone follow each other, so that a drift of the machine
    hits both sides of a comparison; the order is random within them and among them.
    Raises UserError if the source holds too few images.
    """
    groups: dict[str, list[Case]] = {}
    for case in suite.cases:
        groups.setdefault(_training_run(case), []).append(case)
    priors: dict[str, dict[str, Case]] = {}
    for group in groups.values():
        data = pipeline_config(tuple(group)).data
        try:
            source.check_enough(data.num_images, data.num_held_out)
        except ValueError as error:
            raise UserError(f"{suite.file}: {error}") from error
        for key, wanted in _priors_of(tuple(group)):
            priors.setdefault(key, {})[wanted.case_id] = wanted

    given = {"images": suite.images, "device": device, "keep_checkpoints": keep_checkpoints}
    priors_units = {
        key: _priors_unit(tuple(cases.values()), **given) for key, cases in priors.items()
    }
    train_units = []
    for group in groups.values():
        keys = dict(_priors_of(tuple(group)))
        needs = tuple(priors_units[key].unit for key in keys)
        train_units.append(_train_unit(tuple(group), needs, **given))
    order = random.Random(seed)
    return [
        *order.sample(list(priors_units.values()), len(priors_units)),
        *_interleaved(train_units, order),
    ]


# Fields ---------------------------------------------------------------------------------------


def _fields_of(config: type) -> dict[str, Any]:
    """Field -> type, of a config and of those nested in it."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(config).items():
        if name == "outcomes":
            continue
        if dataclasses.is_dataclass(hint):
            found |= _fields_of(cast(type, hint))
        else:
            found[name] = hint
    return found


OUTCOME_FIELDS = _fields_of(OutcomeConfig)
FIELDS = _fields_of(PipelineConfig) | OUTCOME_FIELDS
# What tells the arms of a comparison apart.
_ARM_FIELDS = {"train_on", "loader"}
_CASE_FIELDS: dict[str, Any] = {"seed": int, "repeat": int}


def _build(config: type, settings: Mapping[str, Setting], **given: Any) -> Any:
    """An instance of `config` and of those nested in it, from settings by field."""
    values = dict(given)
    for name, hint in get_type_hints(config).items():
        if name in given or name == "outcomes":
            continue
        if dataclasses.is_dataclass(hint):
            values[name] = _build(cast(type, hint), settings)
        elif name in settings:
            values[name] = settings[name]
    return config(**values)


def _settings(config: Any) -> dict[str, Setting]:
    """The reverse of `_build`: every field by name, defaults spelled out."""
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= _settings(value)
        elif field.name != "outcomes":
            found[field.name] = value
    return found


def _checked(key: str, value: Any, where: str) -> Any:
    hint = (FIELDS | _CASE_FIELDS).get(key)
    if hint is None:
        raise UserError(f"{where}: {key}: no such setting, got {value!r}")
    try:
        # JSON's strict mode: no string for a number, but an array for a tuple.
        return TypeAdapter(hint).validate_json(json.dumps(value, default=repr), strict=True)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"{where}: {key}: {message}, got {value!r}") from error


# Cases ----------------------------------------------------------------------------------------


def _combinations(
    base: dict[str, Any], grid: dict[str, Any], file: str, where: str
) -> Iterator[dict[str, Any]]:
    fixed = {key: _checked(key, value, f"{file}: base") for key, value in base.items()}
    axes = {}
    for key, value in grid.items():
        hint = (FIELDS | _CASE_FIELDS).get(key)
        # A list is an axis, unless the setting itself is a list and this is one value of it.
        single = get_origin(hint) is tuple and not (
            isinstance(value, list) and all(isinstance(item, list) for item in value)
        )
        values = value if isinstance(value, list) and not single else [value]
        if not values:
            raise UserError(f"{where}: {key}: an axis must have at least one value, got []")
        axes[key] = [_checked(key, item, where) for item in values]
    if (count := math.prod(len(values) for values in axes.values())) > MAX_CASES:
        raise UserError(f"{where}: its axes must make at most {MAX_CASES} cases, got {count}")
    for point in itertools.product(*axes.values()):
        yield {**fixed, **dict(zip(axes, point, strict=True))}


def _case(settings: dict[str, Any], images: str, where: str) -> Case:
    seed, repeat = settings.pop("seed", 0), settings.pop("repeat", 1)
    if seed < 0:
        raise UserError(f"{where}: seed must be at least 0, got {seed}")
    if repeat < 1:
        raise UserError(f"{where}: repeat must be at least 1, got {repeat}")
    if "epochs" not in settings:
        raise UserError(f"{where}: epochs: missing, in the grid and in base")
    try:
        outcome = _build(OutcomeConfig, settings)
        whole = _settings(_build(PipelineConfig, settings, outcomes=(outcome,)))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return _new_case({**whole, **_settings(outcome)}, images, seed, repeat)


def _new_case(settings: dict[str, Setting], images: str, seed: int, repeat: int) -> Case:
    settings = {**settings, "images": images}
    return Case(case_id=_digest([settings, seed]), repeat=repeat, seed=seed, settings=settings)


def _digest(content: list[Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Units ----------------------------------------------------------------------------------------


def _training_run(case: Case) -> str:
    """What cases of one training run have in common."""
    settings = {key: value for key, value in case.settings.items() if key not in OUTCOME_FIELDS}
    return _digest([settings, case.seed, case.repeat])


def _interleaved(units: list[UnitSpec], order: random.Random) -> list[UnitSpec]:
    blocks: dict[str, list[UnitSpec]] = {}
    for unit in units:
        case = unit.cases[0]
        kept = case.settings.keys() - OUTCOME_FIELDS.keys() - _ARM_FIELDS
        shared = {key: case.settings[key] for key in kept}
        blocks.setdefault(_digest([shared, case.seed]), []).append(unit)
    for block in blocks.values():
        order.shuffle(block)
    shuffled = order.sample(list(blocks.values()), len(blocks))
    return [unit for block in shuffled for unit in block]


def _priors_of(cases: tuple[Case, ...]) -> Iterator[tuple[str, Case]]:
    """The priors a training run needs: what identifies the unit that makes them, and its case."""
    for case in cases:
        settings = case.settings
        if settings["train_on"] in MADE_OF_PRIORS:
            # One unit makes the priors of every number of images: prefixes share their chunks.
            wanted = _priors_case(case, {"train_on", "num_images"})
            rest = {key: value for key, value in wanted.settings.items() if key != "num_images"}
            yield _digest([rest, case.seed]), wanted
        if settings["start_from"] in MADE_OF_PRIORS:
            wanted = _priors_case(
                case,
                {"start_from", "task", "num_held_out", "num_samples"}
                | _fields_of(RestorationConfig).keys(),
            )
            yield wanted.case_id, wanted


def _priors_case(case: Case, kept: set[str]) -> Case:
    """`case` with everything that its priors do not depend on set to the least there is."""
    kept = {*kept, "image_size", *_fields_of(DIPConfig)}
    outcome = OutcomeConfig(epochs=1, sampling=SamplingConfig(num_inference_steps=1, num_samples=1))
    least = PipelineConfig(
        data=DataConfig(num_images=1, num_held_out=1),
        unet=UNetConfig(block_out_channels=(8,), attention_levels=()),
        outcomes=(outcome,),
    )
    settings = {key: value for key, value in case.settings.items() if key in kept}
    return _new_case(
        {**_settings(least), **_settings(outcome), **settings},
        str(case.settings["images"]),
        case.seed,
        repeat=1,
    )


def _train_unit(cases: tuple[Case, ...], needs: tuple[str, ...], **given: Any) -> UnitSpec:
    config = pipeline_config(cases)
    words = [
        "train", config.train_on, config.loader, config.data.num_images,
        config.schedule.num_train_timesteps, config.schedule.beta_schedule.split("_")[0],
    ]  # fmt: skip
    num_steps = config.milestones[-1] * config.steps_per_epoch + sum(
        outcome.sampling.num_inference_steps for outcome in config.outcomes
    )
    name = _unit_name(words, cases)
    return UnitSpec(unit=name, kind="train", cases=cases, needs=needs, num_steps=num_steps, **given)


def _priors_unit(cases: tuple[Case, ...], **given: Any) -> UnitSpec:
    configs = [pipeline_config((case,)) for case in cases]
    dip, of_target = configs[0].dip, configs[0].train_on in MADE_OF_PRIORS
    counts = [
        c.data.num_images if of_target else c.outcomes[0].sampling.num_samples for c in configs
    ]
    chunks = {
        (first, min(first + dip.images_per_fit, count))
        for count in counts
        for first in range(0, count, dip.images_per_fit)
    }
    name = _unit_name(["priors", "train" if of_target else "held-out", max(counts)], cases)
    return UnitSpec(
        unit=name, kind="priors", cases=cases, num_steps=len(chunks) * dip.num_iter, **given
    )


def _unit_name(words: list[Any], cases: tuple[Case, ...]) -> str:
    case = cases[0]
    if case.seed:
        words.append(f"seed{case.seed}")
    if case.repeat > 1:
        words.append(f"repeat{case.repeat}")
    identity = _digest([[case.case_id, case.repeat] for case in cases])
    return "-".join(map(str, (*words, identity[:6])))
