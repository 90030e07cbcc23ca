"""A suite file: what it may say, the cases it means, and the units that run them. Imports no torch.

title = "one line"
about = "what it can and cannot show"
images = "objects"            # or another source of dipddpm.sources
[base]                        # settings of every case: any field of dipddpm.config, and seed
protocol = "corrected"        # or "paper": a set of settings by name (dipddpm.config.PROTOCOLS)
[[grid]]                      # one case for each combination of the lists
num_images = [32, 64]         # an axis
arm = ["none", "data"]        # settings by name too (dipddpm.config.ARMS)
start_from = "dip"            # the same for the whole grid
t0 = "T"                      # num_train_timesteps; so may num_inference_steps be
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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.records import Case, Setting, UnitSpec, UserError
from dipddpm.config import (
    ARMS,
    MIN_FOR_FEATURES,
    PROTOCOLS,
    DataConfig,
    DIPConfig,
    LoaderConfig,
    NoiseScheduleConfig,
    OutcomeConfig,
    PipelineConfig,
    RestorationConfig,
    SamplingConfig,
    UNetConfig,
    field_types,
    starts_from_priors,
    takes_features,
    targets_priors,
)
from dipddpm.lookup import look_in, source_file
from dipddpm.sources import OBJECTS, ImageSource, absolute_name

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

    @property
    def folder(self) -> str:
        """Where functions of the user's lie, beside the suite."""
        return str(Path(self.file).resolve().parent)

    def functions(self) -> dict[str, str]:
        """The sha256 of the file of each function of the user's that a case names."""
        return functions_of(self.cases)


def names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def functions_of(cases: Iterable[Case]) -> dict[str, str]:
    """The sha256 of the file of each function of the user's that a case names."""
    named = {str(case.settings[field]) for case in cases for field in ("train_on", "start_from")}
    files = {name: source_file(name) for name in sorted(named)}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file
    }


def load(suite: str, *, seed: int | None = None, images: str | None = None) -> Suite:
    """The suite of that name, or in that .toml file; `seed` and `images` replace what it says.

    Where a grid has seeds of its own, `seed` is added to them.

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
    look_in(str(Path(file).resolve().parent))
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
        raise UserError(f"{file}: images must name a source, such as {OBJECTS!r}, got ''")
    # What a suite names lies beside the suite.
    beside = Path(file).parent if images is None else Path()
    images = absolute_name(content.images if images is None else images, beside)

    cases: dict[tuple[str, int], Case] = {}
    for number, grid in enumerate(content.grid, 1):
        where = f"{file}: grid {number}"
        for settings in _combinations(base, grid, file, where):
            if seed is not None and "seed" in grid:
                settings["seed"] += seed  # an axis of seeds, moved along
            case = _case(settings, images, where)
            if (case.case_id, case.repeat) in cases:
                varied = {key: case.settings.get(key, case.repeat) for key in grid}
                raise UserError(f"{where}: a case that is already there: {varied}; see `repeat`")
            cases[case.case_id, case.repeat] = case
    if not cases:
        raise UserError(f"{file}: grid must name at least one case, got []")
    held_out = {case.settings["num_held_out"] for case in cases.values()}
    if len(held_out) > 1:
        raise UserError(
            f"{file}: num_held_out must be the same in all cases, or their scores are of different "
            f"images, got {', '.join(map(str, sorted(held_out, key=str)))}"
        )
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
    suite: Suite, *, seed: int, device: str, keep_checkpoints: bool = False
) -> list[UnitSpec]:
    """The units of a suite in the order in which they run: what runs share first, then the runs.

    Training runs that differ in their arm alone follow each other, so that a drift of the machine
    hits both sides of a comparison; the order is random within them and among them.
    Raises UserError if the outcomes of one training run do not go together.
    """
    groups: dict[str, list[Case]] = {}
    for case in suite.cases:
        groups.setdefault(_digest([_run_settings(case), case.seed, case.repeat]), []).append(case)
    # What identifies a shared unit -> its cases by their id; and what each run needs of them.
    shared: dict[str, dict[str, Case]] = {}
    needed: list[tuple[tuple[Case, ...], list[str]]] = []
    for group in map(tuple, groups.values()):
        try:
            pipeline_config(group)
        except ValueError as error:
            raise UserError(f"{suite.file}: {error}") from error
        wants = dict(_shared_by(group))
        needed.append((group, list(wants)))
        for key, wanted in wants.items():
            shared.setdefault(key, {})[wanted.case_id] = wanted

    given = {
        "images": suite.images,
        "functions": suite.folder,
        "device": device,
        "keep_checkpoints": keep_checkpoints,
    }
    shared_units = {
        key: _shared_unit(tuple(cases.values()), **given) for key, cases in shared.items()
    }
    train_units = [
        _train_unit(group, tuple(shared_units[key].unit for key in keys), **given)
        for group, keys in needed
    ]
    order = random.Random(seed)
    return [
        *order.sample(list(shared_units.values()), len(shared_units)),
        *_interleaved(train_units, order),
    ]


def check_enough(suite: Suite, source: ImageSource) -> None:
    """Raises UserError if the source holds too few images for a case."""
    for case in suite.cases:
        data = pipeline_config((case,)).data
        try:
            source.check_enough(data.num_images, data.num_held_out)
        except ValueError as error:
            raise UserError(f"{suite.file}: {error}") from error


# Fields ---------------------------------------------------------------------------------------


def _fields_of(config: type) -> dict[str, Any]:
    """Field -> type, of a config and of those nested in it."""
    found: dict[str, Any] = {}
    for name, hint in field_types(config).items():
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
_ARM_FIELDS = {"train_on", "condition_on", *_fields_of(LoaderConfig)}
_CASE_FIELDS: dict[str, Any] = {"seed": int, "repeat": int}
# Sets of settings by a name.
_SETS: dict[str, Mapping[str, Mapping[str, Any]]] = {"protocol": PROTOCOLS, "arm": ARMS}
# These may be "T", num_train_timesteps.
_STEPS = {"t0", "num_inference_steps"}


def _build(config: type, settings: Mapping[str, Setting], **given: Any) -> Any:
    """An instance of `config` and of those nested in it, from settings by field."""
    values = dict(given)
    for name, hint in field_types(config).items():
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
    if key in _SETS:
        if not isinstance(value, str) or value not in _SETS[key]:
            raise UserError(f"{where}: {key} must be one of {', '.join(_SETS[key])}, got {value!r}")
        return value
    hint = (FIELDS | _CASE_FIELDS).get(key)
    if hint is None:
        raise UserError(f"{where}: {key}: no such setting, got {value!r}")
    if key in _STEPS and value == "T":
        return value
    if get_origin(hint) is Annotated:
        try:
            get_args(hint)[1].check(key, value)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        return value
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
    if "arm" in grid:  # takes the place of another, of which nothing stays
        fixed.pop("arm", None)
    fixed = _spelled_out(fixed, f"{file}: base")
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
        yield {**fixed, **_spelled_out(dict(zip(axes, point, strict=True)), where)}


def _spelled_out(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """With the settings that a protocol and an arm stand for in place of the arm's name."""
    whole: dict[str, Any] = {}
    if "protocol" in settings:
        whole |= PROTOCOLS[settings["protocol"]]
    named = ARMS[settings["arm"]] if "arm" in settings else {}
    if twice := sorted(named.keys() & settings.keys()):
        raise UserError(
            f"{where}: {twice[0]} must be left out with arm = {settings['arm']!r}, which says it, "
            f"got {settings[twice[0]]!r}"
        )
    return {**whole, **named, **{key: value for key, value in settings.items() if key != "arm"}}


def _case(settings: dict[str, Any], images: str, where: str) -> Case:
    seed, repeat = settings.pop("seed", 0), settings.pop("repeat", 1)
    protocol = settings.pop("protocol", "corrected")
    default = NoiseScheduleConfig().num_train_timesteps
    for key in _STEPS:
        if settings.get(key) == "T":
            settings[key] = settings.get("num_train_timesteps", default)
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
    whole |= {**_settings(outcome), "protocol": protocol}
    return _new_case(whole, images, seed, repeat)


def _new_case(settings: dict[str, Setting], images: str, seed: int, repeat: int) -> Case:
    settings = {**settings, "images": images}
    return Case(case_id=_digest([settings, seed]), repeat=repeat, seed=seed, settings=settings)


def _digest(content: list[Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Units ----------------------------------------------------------------------------------------


def _run_settings(case: Case) -> dict[str, Setting]:
    """The settings that a training run depends on."""
    asked = set(OUTCOME_FIELDS)
    if case.settings["lr_schedule"] == "cosine":
        asked.remove("epochs")
    if case.settings["condition_on"] != "nothing":
        asked.remove("degradation_sigma")
    return {key: value for key, value in case.settings.items() if key not in asked}


def _interleaved(units: list[UnitSpec], order: random.Random) -> list[UnitSpec]:
    blocks: dict[str, list[UnitSpec]] = {}
    for unit in units:
        case = unit.cases[0]
        settings = _run_settings(case)
        same = {key: value for key, value in settings.items() if key not in _ARM_FIELDS}
        blocks.setdefault(_digest([same, case.seed]), []).append(unit)
    for block in blocks.values():
        order.shuffle(block)
    shuffled = order.sample(list(blocks.values()), len(blocks))
    return [unit for block in shuffled for unit in block]


_RESTORATION_FIELDS = _fields_of(RestorationConfig).keys()


def _shared_by(cases: tuple[Case, ...]) -> Iterator[tuple[str, Case]]:
    """What a training run shares with others: what identifies the unit that makes it, its case."""
    for case in cases:
        settings, sampling = case.settings, outcome_config(case).sampling
        data: DataConfig = _build(DataConfig, settings)
        if targets_priors(str(settings["train_on"])):
            # One unit makes the priors of every number of images: prefixes share their chunks.
            wanted = _least(case, {"num_images"}, train_on="dip")
            rest = {key: value for key, value in wanted.settings.items() if key != "num_images"}
            yield _digest([rest, case.seed]), wanted
        if settings["condition_on"] == "dip":
            kept = {"condition_on", "num_images", "num_held_out", *_RESTORATION_FIELDS}
            wanted = _least(case, kept, task="restore")
            yield wanted.case_id, wanted
        if starts_from_priors(sampling.start_from):
            kept = {"num_held_out", "num_samples", *_RESTORATION_FIELDS}
            wanted = _least(case, kept, task="restore", start_from="dip")
            yield wanted.case_id, wanted
        if takes_features(data, sampling):
            wanted = _least(case, {"num_held_out"}, seed=0, num_samples=MIN_FOR_FEATURES)
            yield wanted.case_id, wanted


def _least(case: Case, kept: set[str], *, seed: int | None = None, **asked: Setting) -> Case:
    """The case that asks for nothing but `asked`: everything else is the least there is.

    kept: the settings of `case` that what is asked depends on, beside those of a fit of priors
    """
    if "num_samples" not in asked:
        kept = {*kept, *_fields_of(DIPConfig)}
    outcome = OutcomeConfig(epochs=1, sampling=SamplingConfig(num_inference_steps=1, num_samples=1))
    least = PipelineConfig(
        data=DataConfig(num_images=1, num_held_out=0),
        unet=UNetConfig(block_out_channels=(8,), attention_levels=()),
        outcomes=(outcome,),
    )
    settings = {key: case.settings[key] for key in (*kept, "image_size")}
    return _new_case(
        {**_settings(least), **_settings(outcome), **settings, **asked},
        str(case.settings["images"]),
        case.seed if seed is None else seed,
        repeat=1,
    )


def _train_unit(cases: tuple[Case, ...], needs: tuple[str, ...], **given: Any) -> UnitSpec:
    config = pipeline_config(cases)
    words = [
        "train", config.train_on.replace(":", "."), config.loading.loader, config.data.num_images,
        config.schedule.num_train_timesteps, config.schedule.beta_schedule.split("_")[0],
    ]  # fmt: skip
    num_steps = config.milestones[-1] * config.steps_per_epoch + sum(
        outcome.sampling.num_inference_steps for outcome in config.outcomes
    )
    name = _unit_name(words, cases)
    return UnitSpec(unit=name, kind="train", cases=cases, needs=needs, num_steps=num_steps, **given)


def _shared_unit(cases: tuple[Case, ...], **given: Any) -> UnitSpec:
    configs = [pipeline_config((case,)) for case in cases]
    first = configs[0]
    sampling = first.outcomes[0].sampling
    counts = [config.data.num_images for config in configs]
    if targets_priors(first.train_on):
        what = "priors-train"
        num_steps = first.dip.num_iter * _num_chunks(counts, first.dip)
    elif first.condition_on == "dip":
        what = "priors-condition"
        chunks = _num_chunks(counts, first.dip) + _num_chunks([first.data.num_held_out], first.dip)
        num_steps = first.dip.num_iter * chunks
    elif starts_from_priors(sampling.start_from):
        what, counts = "priors-held-out", [sampling.num_samples]
        num_steps = first.dip.num_iter * _num_chunks(counts, first.dip)
    else:
        what, counts, num_steps = "features", [first.data.num_held_out], 0
    name = _unit_name([what, max(counts)], cases)
    return UnitSpec(unit=name, kind="shared", cases=cases, num_steps=num_steps, **given)


def _num_chunks(counts: Iterable[int], dip: DIPConfig) -> int:
    """Fits that it takes for so many images, where a set that is a prefix shares its chunks."""
    return len(
        {
            (first, min(first + dip.images_per_fit, count))
            for count in counts
            for first in range(0, count, dip.images_per_fit)
        }
    )


def _unit_name(words: list[Any], cases: tuple[Case, ...]) -> str:
    case = cases[0]
    if case.seed:
        words.append(f"seed{case.seed}")
    if case.repeat > 1:
        words.append(f"repeat{case.repeat}")
    identity = _digest([[case.case_id, case.repeat] for case in cases])
    return "-".join(map(str, (*words, identity[:6])))
