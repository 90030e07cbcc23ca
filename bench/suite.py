"""A suite file: what it may say, and the cases it means. Imports no torch.

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
contest = "train"             # a part of the pipeline by itself: priors, train or sample,
contender = "tutorial"        # by dipddpm or by what a user would pick instead (bench.cases)
[profile]                     # as a grid: cases of which a shortened run is profiled at the end,
                              # none of them a contest
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.cases import (
    CONTENDERS,
    FIELDS,
    build,
    check_contest,
    functions_of,
    new_case,
    pipeline_config,
    settings_of,
)
from bench.errors import UserError
from bench.records import MAX_TEXT, Case, Setting
from dipddpm.checks import MAX_WHOLE
from dipddpm.config import ARMS, PROTOCOLS, NoiseScheduleConfig, OutcomeConfig, PipelineConfig
from dipddpm.lookup import look_in
from dipddpm.sources import OBJECTS, ImageSource, absolute_name

SUITES = Path(__file__).parent / "suites"
# More would take minutes to plan, and is a slip of the pen.
MAX_CASES = 20_000
MAX_BYTES = MAX_TEXT


class _SuiteFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    title: str
    about: str
    images: str = OBJECTS
    base: dict[str, Any] = {}
    grid: list[dict[str, Any]]
    profile: dict[str, Any] | None = None


@dataclass(frozen=True)
class Suite:
    """A suite file, read and checked."""

    name: str
    file: str
    title: str
    about: str
    images: str
    text: str
    cases: tuple[Case, ...]
    profiled: tuple[Case, ...] = ()

    @property
    def folder(self) -> str:
        """Where functions of the user's lie, beside the suite."""
        return str(Path(self.file).resolve().parent)

    def functions(self) -> dict[str, str]:
        """The sha256 of the file of each function of the user's that a case names."""
        return functions_of((*self.cases, *self.profiled))


def names() -> list[str]:
    """The bundled suites."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def load(suite: str, *, seed: int | None = None, images: str | None = None) -> Suite:
    """The suite of that name, or in that .toml file; `seed` and `images` replace what it says.

    Where a grid has seeds of its own, `seed` is added to them.

    Raises UserError with file, field and value if there is none, or it says what cannot be.
    """
    path = Path(suite) if suite.endswith(".toml") else SUITES / f"{suite}.toml"
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path}: must be of at most {MAX_BYTES} bytes, got {size}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if suite.endswith(".toml"):
            raise UserError(f"suite {suite!r}: there is no such file") from None
        raise UserError(
            f"suite must be one of {', '.join(names())} or a .toml file, got {suite!r}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    try:
        return parse(text, str(path), path.stem, seed=seed, images=images)
    except RecursionError:
        raise UserError(f"{path}: its values are nested too deeply") from None


def parse(
    text: str, file: str, name: str, *, seed: int | None = None, images: str | None = None
) -> Suite:
    """As `load`, from the text of a file."""
    look_in(str(Path(file).resolve().parent))
    try:
        content = _SuiteFile.model_validate(_tables(text, file))
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

    def cases_of(grids: dict[str, dict[str, Any]]) -> tuple[Case, ...]:
        cases: dict[tuple[str, int], Case] = {}
        known: dict[str, dict[str, Setting]] = {}
        for name, grid in grids.items():
            where = f"{file}: {name}"
            for settings in _combinations(base, grid, file, where):
                if name == "profile" and settings.get("contest", "none") != "none":
                    raise UserError(
                        f"{where}: contest must be 'none', for what is profiled is a shortened "
                        f"training run with its outcomes, got {settings['contest']!r}"
                    )
                if seed is not None and "seed" in grid:
                    settings["seed"] += seed  # an axis of seeds, moved along
                case = _case(settings, images, where, known)
                if (case.case_id, case.repeat) in cases:
                    there = {**case.settings, "seed": case.seed, "repeat": case.repeat}
                    varied = {key: there[key] for key in grid if key in there}
                    raise UserError(
                        f"{where}: a case that is already there: {varied}; see `repeat`"
                    )
                cases[case.case_id, case.repeat] = case
        return tuple(cases.values())

    cases = cases_of({f"grid {number}": grid for number, grid in enumerate(content.grid, 1)})
    profiled = cases_of({} if content.profile is None else {"profile": content.profile})
    if not cases:
        raise UserError(f"{file}: grid must name at least one case, got []")
    held_out = {case.settings["num_held_out"] for case in cases}
    if len(held_out) > 1:
        raise UserError(
            f"{file}: num_held_out must be the same in all cases, or their scores are of different "
            f"images, got {', '.join(map(str, sorted(held_out, key=str)))}"
        )
    return Suite(name, file, content.title, content.about, images, text, cases, profiled)


def _tables(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # of TOML, or of a number too long for Python
        raise UserError(f"{file}: {error}") from error


def check_enough(suite: Suite, source: ImageSource) -> None:
    """Raises UserError if the source holds too few images for a case."""
    for case in (*suite.cases, *suite.profiled):
        data = pipeline_config((case,)).data
        try:
            source.check_enough(data.num_images, data.num_held_out)
        except ValueError as error:
            raise UserError(f"{suite.file}: {error}") from error


# Fields ---------------------------------------------------------------------------------------


_CASE_FIELDS: dict[str, Any] = {"seed": int, "repeat": int}
# Of a case, and of no config of the pipeline; the first is the default.
_OF_CASES: dict[str, tuple[str, ...]] = {
    "contest": tuple(CONTENDERS),
    "contender": tuple(dict.fromkeys(one for some in CONTENDERS.values() for one in some)),
}
# Sets of settings by a name.
_SETS: dict[str, Mapping[str, Mapping[str, Any]]] = {"protocol": PROTOCOLS, "arm": ARMS}
# These may be "T", num_train_timesteps.
_STEPS = {"t0", "num_inference_steps"}


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _checked(key: str, value: Any, where: str) -> Any:
    if key in _SETS:
        if not isinstance(value, str) or value not in _SETS[key]:
            raise UserError(f"{where}: {key} must be one of {', '.join(_SETS[key])}, got {value!r}")
        return value
    if key in _OF_CASES:
        if value not in _OF_CASES[key]:
            raise UserError(
                f"{where}: {key} must be one of {', '.join(_OF_CASES[key])}, got {value!r}"
            )
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
        return _adapter(hint).validate_json(json.dumps(value, default=repr), strict=True)
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
        settings = {**fixed, **_spelled_out(dict(zip(axes, point, strict=True)), where)}
        # What is written out goes before what a protocol stands for, wherever either is named.
        yield {**PROTOCOLS.get(settings.get("protocol", ""), {}), **settings}


def _spelled_out(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """With the settings that an arm stands for in place of its name."""
    named = ARMS[settings["arm"]] if "arm" in settings else {}
    if twice := sorted(named.keys() & settings.keys()):
        raise UserError(
            f"{where}: {twice[0]} must be left out with arm = {settings['arm']!r}, which says it, "
            f"got {settings[twice[0]]!r}"
        )
    return {**named, **{key: value for key, value in settings.items() if key != "arm"}}


def _case(
    settings: dict[str, Any], images: str, where: str, known: dict[str, dict[str, Setting]]
) -> Case:
    """known: all settings by those that were asked for, of the cases before"""
    seed, repeat = settings.pop("seed", 0), settings.pop("repeat", 1)
    protocol = settings.pop("protocol", "corrected")
    contest, contender = (settings.pop(key, names[0]) for key, names in _OF_CASES.items())
    default = NoiseScheduleConfig().num_train_timesteps
    for key in _STEPS:
        if settings.get(key) == "T":
            settings[key] = settings.get("num_train_timesteps", default)
    if not 0 <= seed <= MAX_WHOLE:
        raise UserError(f"{where}: seed must be from 0 to 2**63 - 1, got {seed}")
    if repeat < 1:
        raise UserError(f"{where}: repeat must be at least 1, got {repeat}")
    if contest == "priors":
        settings.setdefault("epochs", 1)  # nothing is trained
    if "epochs" not in settings:
        raise UserError(f"{where}: epochs: missing, in the grid and in base")
    asked = repr(sorted({**settings, "contest": contest, "contender": contender}.items()))
    if asked not in known:  # once for all seeds
        try:
            outcome = build(OutcomeConfig, settings)
            whole = settings_of(build(PipelineConfig, settings, outcomes=(outcome,)))
            whole |= settings_of(outcome)
            check_contest(contest, contender, whole)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        known[asked] = whole
    whole = {**known[asked], "protocol": protocol, "contest": contest, "contender": contender}
    return new_case(whole, images, seed, repeat)
