"""From the cases of a suite to the units that run them, each in a process. Imports no torch."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bench.apart import telling, value_words
from bench.cases import (
    OUTCOME_FIELDS,
    digest,
    fields_of,
    new_case,
    pipeline_config,
    settings_of,
)
from bench.errors import UserError
from bench.records import Case, Setting, UnitSpec, is_contest
from bench.suite import Suite
from dipddpm.config import (
    MIN_FOR_FEATURES,
    DataConfig,
    DIPConfig,
    LoaderConfig,
    OutcomeConfig,
    PipelineConfig,
    RestorationConfig,
    SamplingConfig,
    UNetConfig,
    starts_from_priors,
    takes_features,
    targets_priors,
)

# In the name of a unit, behind the words for what it does; and what is no part of a name.
_END_OF_NAME = re.compile(r"(-seed\d+)?(-repeat\d+)?-[0-9a-f]{6}$")
_NO_NAME = re.compile(r"[^\w.]+")
# Characters of the settings in it.
_MAX_APART = 100
# What tells the arms of a comparison apart.
_ARM_FIELDS = {"train_on", "condition_on", *fields_of(LoaderConfig)}


def plan_units(
    suite: Suite, *, seed: int, device: str, keep_checkpoints: bool = False, cold: bool = False
) -> list[UnitSpec]:
    """The units of a suite in the order in which they run: what runs share, the runs, profiles.

    Training runs that differ in their arm alone follow each other, so that a drift of the machine
    hits both sides of a comparison; the order is random within them and among them.
    Raises UserError if the outcomes of one training run do not go together.
    """
    groups: dict[object, list[Case]] = {}
    contests = [case for case in suite.cases if is_contest(case)]
    for case in suite.cases:
        if not is_contest(case):
            identity = (*_run_settings(case).items(), case.seed, case.repeat)
            groups.setdefault(identity, []).append(case)
    # What identifies a shared unit -> its cases by their id; and what each run needs of them.
    shared: dict[str, dict[str, Case]] = {}
    needed: list[tuple[tuple[Case, ...], PipelineConfig, list[str]]] = []
    for group in map(tuple, groups.values()):
        try:
            config = pipeline_config(group)
        except ValueError as error:
            raise UserError(f"{suite.file}: {error}") from error
        wants = dict(_shared_by(group, config))
        needed.append((group, config, list(wants)))
        for key, wanted in wants.items():
            shared.setdefault(key, {})[wanted.case_id] = wanted

    given = {
        "images": suite.images,
        "functions": suite.folder,
        "device": device,
        "keep_checkpoints": keep_checkpoints,
        "cold": cold,
    }
    shared_units = {
        key: _shared_unit(tuple(cases.values()), **given) for key, cases in shared.items()
    }
    train_units = [
        _train_unit(group, config, tuple(shared_units[key].unit for key in keys), **given)
        for group, config, keys in needed
    ]
    order = random.Random(seed)
    return _told_apart(
        [
            *order.sample(list(shared_units.values()), len(shared_units)),
            *_interleaved(train_units, order),
            *_in_turn([_contest_unit(case, **given) for case in contests], order),
            *_profile_units(suite.profiled, **given),
        ]
    )


def plan_profiles(
    suite: Suite, *, device: str, nvtx: bool = False, memory_snapshot: bool = False
) -> list[UnitSpec]:
    """A profile of the first case of each arm of a suite, and no other unit."""
    first: dict[str, Case] = {}
    for case in suite.cases:
        arm = {key: value for key, value in case.settings.items() if key in _ARM_FIELDS}
        first.setdefault(digest([arm]), case)
    given = {"images": suite.images, "functions": suite.folder, "device": device}
    return _told_apart(
        _profile_units(first.values(), nvtx=nvtx, memory_snapshot=memory_snapshot, **given)
    )


def _told_apart(units: Sequence[UnitSpec]) -> list[UnitSpec]:
    """With the settings in their names that tell units apart whose names differ by the digest
    alone, but for those that are as they are if nothing is said, and for what would be too long."""
    alike: dict[str, dict[str, dict[str, Setting]]] = {}
    for spec in units:
        settings = spec.cases[0].settings
        if spec.kind != "contest":
            settings = _run_settings(spec.cases[0])
        if spec.kind == "shared":  # of the most of its images the name tells
            settings = {key: value for key, value in settings.items() if key != "num_images"}
        alike.setdefault(_words(spec.unit), {})[spec.unit] = settings
    names: dict[str, str] = {}
    for words, some in alike.items():
        told = telling(some.values(), ())
        for unit, settings in some.items():
            own = [_setting_words(name, settings.get(name)) for name in told]
            names[unit] = "-".join([words, *_few(filter(None, own))]) + unit[len(words) :]
    return [
        spec.model_copy(
            update={
                "unit": names[spec.unit],
                "needs": tuple(names.get(need, need) for need in spec.needs),
            }
        )
        for spec in units
    ]


def _words(unit: str) -> str:
    """The name without seed, repeat and digest."""
    found = _END_OF_NAME.search(unit)
    assert found is not None
    return unit[: found.start()]


def _setting_words(name: str, value: Setting) -> str:
    """learning_rate.0.001; empty of a default."""
    if name in _DEFAULTS and _DEFAULTS[name] == value:
        return ""
    return f"{name}.{_NO_NAME.sub('.', value_words(value))}"


def _few(words: Iterable[str]) -> Iterator[str]:
    """As many of the first as a name has room for."""
    room = _MAX_APART
    for one in words:
        room -= len(one)
        if room >= 0:
            yield one


def _run_settings(case: Case) -> dict[str, Setting]:
    """The settings that a training run depends on."""
    asked = set(OUTCOME_FIELDS)
    if case.settings["lr_schedule"] == "cosine":
        asked.remove("epochs")
    if case.settings["condition_on"] != "nothing":
        asked.remove("degradation_sigma")
    return {key: value for key, value in case.settings.items() if key not in asked}


def _interleaved(units: list[UnitSpec], order: random.Random) -> list[UnitSpec]:
    blocks: dict[object, list[UnitSpec]] = {}
    for unit in units:
        case = unit.cases[0]
        settings = _run_settings(case)
        same = tuple((key, value) for key, value in settings.items() if key not in _ARM_FIELDS)
        blocks.setdefault((same, case.seed), []).append(unit)
    for block in blocks.values():
        order.shuffle(block)
    shuffled = order.sample(list(blocks.values()), len(blocks))
    return [unit for block in shuffled for unit in block]


def _in_turn(units: list[UnitSpec], order: random.Random) -> list[UnitSpec]:
    """Rounds of all contenders of a contest, each round of one seed and repeat in an order of its
    own: a drift of the machine hits all alike."""
    rounds: dict[tuple[object, ...], list[UnitSpec]] = {}
    for unit in units:
        [case] = unit.cases
        rounds.setdefault((case.settings["contest"], case.seed, case.repeat), []).append(unit)
    for contenders in rounds.values():
        order.shuffle(contenders)
    return [unit for contenders in rounds.values() for unit in contenders]


_RESTORATION_FIELDS = fields_of(RestorationConfig).keys()


def _shared_by(cases: tuple[Case, ...], config: PipelineConfig) -> Iterator[tuple[str, Case]]:
    """What a training run shares with others: what identifies the unit that makes it, its case."""
    data = config.data
    for case, outcome in zip(cases, config.outcomes, strict=True):
        settings, sampling = case.settings, outcome.sampling
        if targets_priors(str(settings["train_on"])):
            # One unit makes the priors of every number of images: prefixes share their chunks.
            wanted = _least(case, {"num_images"}, train_on="dip")
            rest = {key: value for key, value in wanted.settings.items() if key != "num_images"}
            yield digest([rest, case.seed]), wanted
        if settings["condition_on"] == "dip":
            kept = {"condition_on", "num_images", "num_held_out", *_RESTORATION_FIELDS}
            wanted = _least(case, kept, task="restore")
            yield wanted.case_id, wanted
        if starts_from_priors(sampling.start_from):
            kept = {"num_held_out", "num_samples", *_RESTORATION_FIELDS}
            wanted = _least(case, kept, task="restore", start_from="dip")
            yield wanted.case_id, wanted
        if takes_features(data, sampling):
            # Of as many training as held-out images: runs with more of one share them.
            count = min(data.num_images, data.num_held_out)
            wanted = _least(
                case, set(), seed=0, num_samples=MIN_FOR_FEATURES,
                num_images=count, num_held_out=count,
            )  # fmt: skip
            yield wanted.case_id, wanted


def _least_settings() -> dict[str, Setting]:
    outcome = OutcomeConfig(epochs=1, sampling=SamplingConfig(num_inference_steps=1, num_samples=1))
    least = PipelineConfig(
        data=DataConfig(num_images=1, num_held_out=0),
        unet=UNetConfig(block_out_channels=(8,), attention_levels=()),
        outcomes=(outcome,),
    )
    return {**settings_of(least), **settings_of(outcome)}


_LEAST = _least_settings()
# Of what has a default.
_DEFAULTS = _LEAST | settings_of(UNetConfig())


def _least(case: Case, kept: set[str], *, seed: int | None = None, **asked: Setting) -> Case:
    """The case that asks for nothing but `asked`: everything else is the least there is.

    kept: the settings of `case` that what is asked depends on, beside those of a fit of priors
    """
    if "num_samples" not in asked:
        kept = {*kept, *fields_of(DIPConfig)}
    settings = {key: case.settings[key] for key in (*kept, "image_size")}
    return new_case(
        {**_LEAST, **settings, **asked},
        str(case.settings["images"]),
        case.seed if seed is None else seed,
        repeat=1,
    )


def _train_unit(
    cases: tuple[Case, ...], config: PipelineConfig, needs: tuple[str, ...], **given: Any
) -> UnitSpec:
    words = [
        "train", *_arm_words(config), config.schedule.num_train_timesteps,
        config.schedule.beta_schedule.split("_")[0],
    ]  # fmt: skip
    num_steps = config.milestones[-1] * config.steps_per_epoch + sum(
        _num_sampling_steps(outcome.sampling) for outcome in config.outcomes
    )
    name = _unit_name(words, cases)
    return UnitSpec(unit=name, kind="train", cases=cases, needs=needs, num_steps=num_steps, **given)


def _contest_unit(case: Case, **given: Any) -> UnitSpec:
    contest, contender = str(case.settings["contest"]), str(case.settings["contender"])
    words = ["contest", contest, contender.replace(" ", ".")]
    return UnitSpec(
        unit=_unit_name(words, (case,)),
        kind="contest",
        cases=(case,),
        num_steps=_num_contest_steps(contest, contender, pipeline_config((case,)), given["device"]),
        **given,
    )


def _num_contest_steps(contest: str, contender: str, config: PipelineConfig, device: str) -> int:
    if contest == "priors":
        count = config.data.num_images
        if contender == "paper loop":
            return count * config.dip.num_iter
        return _num_iterations(config, [count], device)
    training = config.milestones[-1] * config.steps_per_epoch
    if contest == "train":
        return training
    [outcome] = config.outcomes
    # Its own and, beside them, those of the plain path, which draws them all at once.
    drawing = _num_sampling_steps(outcome.sampling) + outcome.sampling.num_inference_steps
    return (2 if contender == "another seed" else 1) * training + drawing


def _shared_unit(cases: tuple[Case, ...], **given: Any) -> UnitSpec:
    configs = [pipeline_config((case,)) for case in cases]
    first = configs[0]
    sampling = first.outcomes[0].sampling
    counts = [config.data.num_images for config in configs]
    if targets_priors(first.train_on):
        what, fitted = "priors-train", [counts]
    elif first.condition_on == "dip":
        what, fitted = "priors-condition", [counts, [first.data.num_held_out]]
    elif starts_from_priors(sampling.start_from):
        what, counts = "priors-held-out", [sampling.num_samples]
        fitted = [counts]
    else:
        what, counts, fitted = "features", [first.data.num_held_out], []
    num_steps = sum(_num_iterations(first, some, given["device"]) for some in fitted)
    name = _unit_name([what, max(counts)], cases)
    return UnitSpec(unit=name, kind="shared", cases=cases, num_steps=num_steps, **given)


def _num_sampling_steps(sampling: SamplingConfig) -> int:
    batches = math.ceil(sampling.num_samples / (sampling.samples_per_batch or sampling.num_samples))
    return batches * sampling.num_inference_steps


def _num_iterations(config: PipelineConfig, counts: list[int], device: str) -> int:
    """Of the fits of so many images."""
    dip = config.dip
    if dip.backend_on(device, config.data.image_size) == "loop":
        fits = _num_fitted(counts, dip)
    else:
        fits = _num_chunks(counts, dip)
    return fits * dip.num_iter + (dip.warm_start_iter if dip.warm_start == "learned" else 0)


def _profile_units(cases: Iterable[Case], **given: Any) -> list[UnitSpec]:
    return [
        UnitSpec(
            unit=_unit_name(["profile", *_arm_words(pipeline_config((case,)))], (case,)),
            kind="profile",
            cases=(case,),
            # Not counted: they tell nothing of the pace of what is measured.
            num_steps=0,
            **given,
        )
        for case in cases
    ]


def _arm_words(config: PipelineConfig) -> list[Any]:
    return [config.train_on.replace(":", "."), config.loading.loader, config.data.num_images]


def _num_chunks(counts: Iterable[int], dip: DIPConfig) -> int:
    """Fits that it takes for so many images, where a set that is a prefix shares its chunks."""
    known = set(counts)
    whole, rests = max(known) // dip.images_per_fit, [n for n in known if n % dip.images_per_fit]
    return whole + len(rests)


def _num_fitted(counts: Iterable[int], dip: DIPConfig) -> int:
    """Images in those fits."""
    known, at_once = set(counts), dip.images_per_fit
    return max(known) // at_once * at_once + sum(count % at_once for count in known)


def _unit_name(words: list[Any], cases: tuple[Case, ...]) -> str:
    case = cases[0]
    if case.seed:
        words.append(f"seed{case.seed}")
    if case.repeat > 1:
        words.append(f"repeat{case.repeat}")
    identity = digest([[case.case_id, case.repeat] for case in cases])
    return "-".join(map(str, (*words, identity[:6])))
