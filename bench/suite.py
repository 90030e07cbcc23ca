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
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.records import Case, Setting, UnitSpec, UserError
from dipddpm.config import OutcomeConfig, PipelineConfig, SamplingConfig
from dipddpm.sources import OBJECTS, ImageSource

SUITES = Path(__file__).parent / "suites"


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
    images = images or content.images

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
    return Suite(name, content.title, content.about, images, text, tuple(cases.values()))


def pipeline_config(cases: tuple[Case, ...]) -> PipelineConfig:
    """The training run that gives all of `cases`, which differ in outcome settings only.

    Raises ValueError, naming field and value, if a value cannot be.
    """
    outcomes = tuple(_build(OutcomeConfig, case.settings) for case in cases)
    return _build(PipelineConfig, cases[0].settings, outcomes=outcomes)


def outcome_config(case: Case) -> OutcomeConfig:
    return _build(OutcomeConfig, case.settings)


def units(suite: Suite, source: ImageSource, *, seed: int, device: str, **options: bool) -> list[UnitSpec]:
    """The units of a suite in the order in which they run: priors first, then training runs.

    Within a wave the order is random, so that no arm has the machine's better hour.
    Raises UserError if the source holds too few images.
    """
    groups: dict[str, list[Case]] = {}
    for case in suite.cases:
        groups.setdefault(_training_run(case), []).append(case)
    priors: dict[str, UnitSpec] = {}
    training = []
    for group in groups.values():
        cases = tuple(group)
        config = pipeline_config(cases)
        try:
            source.check_enough(config.data.num_images, config.data.num_held_out)
        except ValueError as error:
            raise UserError(f"{suite.name}: {error}") from error
        needs = []
        for shared in _shared_priors(config, cases):
            spec = _unit("priors", shared, suite.images, device, **options)
            key = _digest([_prior_identity(shared[0])])
            there = priors.get(key)
            if there is not None:
                merged = tuple({case.case_id: case for case in (*there.cases, *shared)}.values())
                spec = _unit("priors", merged, suite.images, device, **options)
            priors[key] = spec
            needs.append(key)
        training.append((cases, needs))
    training_units = [
        _unit(
            "train",
            cases,
            suite.images,
            device,
            needs=tuple(priors[key].unit for key in needs),
            **options,
        )
        for cases, needs in training
    ]
    shuffled = random.Random(seed)
    waves = [list(priors.values()), training_units]
    for wave in waves:
        shuffled.shuffle(wave)
    return [unit for wave in waves for unit in wave]


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
    for point in itertools.product(*axes.values()):
        yield {**fixed, **dict(zip(axes, point, strict=True))}


def _case(settings: dict[str, Any], images: str, where: str) -> Case:
    seed, repeat = settings.pop("seed", 0), settings.pop("repeat", 1)
    if seed < 0 or repeat < 1:
        raise UserError(f"{where}: seed must be at least 0 and repeat 1, got {seed} and {repeat}")
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
    return Case(
        case_id=_digest([settings, seed]), repeat=repeat, seed=seed, settings=settings
    )


def _digest(content: list[Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Units ----------------------------------------------------------------------------------------


def _training_run(case: Case) -> str:
    settings = {key: value for key, value in case.settings.items() if key not in OUTCOME_FIELDS}
    return _digest([settings, case.seed, case.repeat])


def _shared_priors(config: PipelineConfig, cases: tuple[Case, ...]) -> Iterator[tuple[Case, ...]]:
    """Cases that stand for the priors a training run needs: of its target, and of its starts."""
    plain = _settings(SamplingConfig())
    first = cases[0]
    if config.train_on == "dip":
        yield (_standing_for(first, plain),)
    yield from (
        (_standing_for(case, {"train_on": "images"}),)
        for case in cases
        if case.settings["start_from"] == "dip"
    )


def _standing_for(case: Case, replaced: Mapping[str, Setting]) -> Case:
    settings = {**case.settings, "loader": "memory", "epochs": 1, **replaced}
    if settings["start_from"] != "noise":
        # The priors of a start do not depend on how it is sampled.
        kept = ("degradation_sigma", "blur_sigma", "start_from", "task")
        settings |= {k: v for k, v in _settings(SamplingConfig()).items() if k not in kept}
        settings |= {"num_inference_steps": 1, "num_samples": 1}
    images = str(settings["images"])
    return _new_case(settings, images, case.seed, 1)


def _prior_identity(case: Case) -> dict[str, Setting]:
    """Settings whose priors one unit makes; it makes them for every number of images."""
    fields = ("train_on", "image_size", "num_iter", "prior_learning_rate", "prior_target",
              "images_per_fit", "num_held_out", "degradation_sigma", "start_from")  # fmt: skip
    return {"seed": case.seed, **{field: case.settings[field] for field in fields}}


def _unit(
    kind: Any,
    cases: tuple[Case, ...],
    images: str,
    device: str,
    *,
    needs: tuple[str, ...] = (),
    **options: bool,
) -> UnitSpec:
    config = pipeline_config(cases)
    case = cases[0]
    words = [kind, config.train_on if kind == "train" else case.settings["start_from"]]
    if kind == "train":
        words += [config.loader, config.data.num_images, config.schedule.num_train_timesteps,
                  config.schedule.beta_schedule.split("_")[0]]  # fmt: skip
    elif config.train_on == "dip":
        words[1] = "target"
    identity = _digest([[case.case_id for case in cases], kind, case.repeat])
    words += [f"s{case.seed}", *([f"r{case.repeat}"] if case.repeat > 1 else []), identity[:6]]
    return UnitSpec(
        unit="-".join(map(str, words)),
        kind=kind,
        images=images,
        device=device,
        cases=cases,
        needs=needs,
        num_steps=_num_steps(kind, config, cases),
        **options,
    )


def _num_steps(kind: str, config: PipelineConfig, cases: tuple[Case, ...]) -> int:
    """Iterations of the loops that a unit runs."""
    if kind == "train":
        return config.milestones[-1] * config.steps_per_epoch + sum(
            outcome.sampling.num_inference_steps for outcome in config.outcomes
        )
    counts = {
        pipeline_config((case,)).data.num_images
        if config.train_on == "dip"
        else config.data.num_held_out
        for case in cases
    }
    per_fit = config.dip.images_per_fit
    chunks = {(i, min(i + per_fit, n)) for n in counts for i in range(0, n, per_fit)}
    return len(chunks) * config.dip.num_iter


