"""Contests told: each contender beside what a user would pick instead, in time and in quality.

A round is a seed; two contenders in one round are a pair. Imports no torch.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.apart import value_words
from bench.records import Record, Setting
from bench.stats import Effect, Pair, paired_difference, paired_ratio
from bench.verdicts import EQUIVALENCE_CONFIDENCE

# What a contest is measured against, and the score that tells of quality.
BASELINES = {"priors": "paper loop", "train": "tutorial", "sample": "DDPMPipeline"}
QUALITY = {"priors": "psnr", "train": "eps_loss", "sample": "psnr_to_plain"}
# Of priors: a lower precision may cost so many dB.
MAX_PSNR_LOSS = 0.1
# Rounds that a gain takes.
MIN_ROUNDS = 6
OURS = "dipddpm"


@dataclass(frozen=True)
class Gate:
    """passed: None where it cannot be told, as the interval leaves both open."""

    passed: bool | None
    why: str


@dataclass(frozen=True)
class Entry:
    """A contender of a contest, over its rounds.

    work: what makes it other work than a contest of its kind at another size
    name: who did it, and by which levers
    seconds: median over the rounds
    ratio: the baseline's seconds over its own, by which it is faster; None for who is not ours
    to_plain: the same beside dipddpm without any lever
    quality: mean of the score over the rounds
    failed: rounds that gave nothing
    ratios: of `ratio`, round by round
    """

    contest: str
    work: str
    name: str
    seconds: float
    ratio: Effect | None
    to_plain: Effect | None
    quality: float
    gate: Gate
    records: tuple[Record, ...]
    failed: int
    ratios: tuple[float, ...]

    @property
    def is_allowed(self) -> bool:
        """Of equal quality, or without a lever, and no round failed."""
        plain = self.name == OURS and self.gate.passed is None
        return plain or self.gate.passed is True

    @property
    def is_gain(self) -> bool:
        """A lever that is surely faster than none, at equal quality, over enough rounds."""
        faster = self.to_plain
        return (
            faster is not None
            and faster.low is not None
            and faster.low > 1
            and faster.n >= MIN_ROUNDS
            and self.gate.passed is True
        )


def gate_priors(psnr: Mapping[int, float], plain: Mapping[int, float]) -> Gate:
    """Fits lose at most MAX_PSNR_LOSS dB, by the 90 % interval of what they gain at equal seeds.

    psnr, plain: mean PSNR of the fits, by seed
    """
    gain = _gain(psnr, plain)
    ends = None if gain is None else gain.interval(EQUIVALENCE_CONFIDENCE)
    if gain is None or ends is None:
        return Gate(None, "too few seeds")
    text = f"{gain.mean:+.2f} dB [{ends[0]:+.2f}, {ends[1]:+.2f}], may lose {MAX_PSNR_LOSS}"
    return Gate(_told(ends, -MAX_PSNR_LOSS), text)


def gate_training(loss: Mapping[int, float], plain: Mapping[int, float]) -> Gate:
    """The held-out loss rises by less than one standard deviation of the plain one over seeds, by
    the 90 % interval of its rise at equal seeds."""
    rise = _gain(loss, plain)
    ends = None if rise is None else rise.interval(EQUIVALENCE_CONFIDENCE)
    if rise is None or ends is None:
        return Gate(None, "too few seeds")
    band = statistics.stdev(plain.values())
    text = f"{rise.mean:+.2g} [{ends[0]:+.2g}, {ends[1]:+.2g}], seeds differ by {band:.2g}"
    return Gate(_told((-ends[1], -ends[0]), -band), text)


def gate_sampling(alike: Mapping[int, float], another: Mapping[int, float]) -> Gate:
    """Its samples are nearer to those of the plain path, from the same noise and net, than those of
    another seed's net are, by the 90 % interval of the difference.

    alike, another: PSNR to the samples of the plain path in dB, by seed
    """
    nearer = _gain(alike, another)
    ends = None if nearer is None else nearer.interval(EQUIVALENCE_CONFIDENCE)
    if nearer is None or ends is None:
        return Gate(None, "too few seeds, or no samples of another seed")
    mean, band = (statistics.mean(one.values()) for one in (alike, another))
    text = f"{mean:.1f} dB to the plain path's, another seed's are at {band:.1f} dB"
    return Gate(_told(ends, 0.0), text)


def _told(ends: tuple[float, float], least: float) -> bool | None:
    """Whether an interval lies above `least`, or below it."""
    if ends[0] >= least:
        return True
    return False if ends[1] < least else None


def _gain(scores: Mapping[int, float], others: Mapping[int, float]) -> Effect | None:
    return paired_difference(
        Pair(others[seed], scores[seed], frozenset({f"{seed}"}))
        for seed in sorted(scores.keys() & others.keys())
    )


def entries(records: Iterable[Record]) -> list[Entry]:
    """The contenders of every contest, the quickest first, in the order of the contests.

    Contests of one kind at other sizes stand apart.
    """
    records = list(records)
    found: list[Entry] = []
    for contest in BASELINES:
        of_contest = [record for record in records if record.settings["contest"] == contest]
        by_work: dict[str, list[Record]] = {}
        for record in of_contest:
            by_work.setdefault(_work(record), []).append(record)
        for some in by_work.values():
            found += _entries(contest, _work_in_words(some[0]), some)
    return found


# The levers of a contest, as they are where nobody moves them. Not read from dipddpm.config, as
# reports import none of it.
_LEVERS: dict[str, dict[str, Setting]] = {
    "priors": {
        "backend": "auto",
        "warm_start": "none",
        "warm_start_iter": 100,
        "prior_adam_beta1": 0.9,
        "prior_precision": "no",
        "prior_channels_last": None,
        "prior_tf32": "convolutions",
        "prior_cuda_graph": False,
    },
    "train": {
        "loader": "memory",
        "mixed_precision": "no",
        "gradient_accumulation_steps": 1,
        "channels_last": False,
        "tf32": "convolutions",
        "attention": "auto",
        "compile": "no",
        "cuda_graph": False,
        "fused_adamw": True,
        "foreach_ema": True,
        "num_threads": None,
    },
    "sample": {
        "samples_per_batch": None,
        "sampling_precision": "no",
        "sampling_channels_last": False,
        "sampling_tf32": "convolutions",
        "sampling_attention": "auto",
        "sampling_compile": "no",
        "sampling_cuda_graph": False,
    },
}

# What a contest at another size is told apart by, where it stands beside others.
_SHOWN = {
    "priors": ("image_size", "num_images", "net", "num_iter", "early_stopping"),
    "train": ("image_size", "num_images", "batch_size", "block_out_channels", "epochs"),
    "sample": (
        "image_size", "block_out_channels", "sampler", "num_inference_steps", "num_samples",
    ),
}  # fmt: skip


def _work(record: Record) -> str:
    """All that makes it other work: every setting but the contender and its levers."""
    apart = {"contender", *_LEVERS[str(record.settings["contest"])]}
    return repr(sorted((name, one) for name, one in record.settings.items() if name not in apart))


def _work_in_words(record: Record) -> str:
    names = _SHOWN[str(record.settings["contest"])]
    return ", ".join(f"{name} = {value_words(record.settings[name])}" for name in names)


def _entries(contest: str, work: str, records: Sequence[Record]) -> list[Entry]:
    contenders: dict[str, dict[int, Record]] = {}
    failed: Counter[str] = Counter()
    for record in records:
        name = _name(contest, record)
        # Of a repeat of a round the first counts.
        if record.repeat == 1 and record.status == "ok":
            contenders.setdefault(name, {})[record.seed] = record
        failed[name] += record.status != "ok"
    plain = contenders.get(OURS, {})
    # As it is, or in whatever precision it was given; of several that with the fewest settings.
    named = [name for name in contenders if name.split(", ")[0] == BASELINES[contest]]
    baseline = contenders[min(named, key=lambda name: name.count(", "))] if named else {}
    found = [
        _entry(
            contest,
            work,
            name,
            rounds,
            plain,
            baseline,
            contenders.get("another seed", {}),
            failed[name],
        )
        for name, rounds in contenders.items()
    ]
    return sorted(found, key=lambda one: one.seconds)


def _entry(
    contest: str,
    work: str,
    name: str,
    rounds: Mapping[int, Record],
    plain: Mapping[int, Record],
    baseline: Mapping[int, Record],
    another: Mapping[int, Record],
    failed: int,
) -> Entry:
    is_ours = name.startswith(OURS)
    quality = {seed: record.scores[QUALITY[contest]] for seed, record in rounds.items()}
    reference = {
        seed: record.scores[QUALITY[contest]]
        for seed, record in (another if contest == "sample" else plain).items()
    }
    gate = Gate(None, "")
    if is_ours and name != OURS:
        gate = _GATES[contest](quality, reference)
    if failed:  # what is left of its rounds tells nothing of those
        gate = Gate(False, f"{failed} of its rounds failed")
    return Entry(
        contest=contest,
        work=work,
        name=name,
        seconds=statistics.median(record.scores["seconds"] for record in rounds.values()),
        ratio=_faster(rounds, baseline) if is_ours else None,
        to_plain=_faster(rounds, plain) if is_ours and name != OURS else None,
        quality=statistics.mean(quality.values()),
        gate=gate,
        records=tuple(rounds.values()),
        failed=failed,
        ratios=tuple(
            baseline[seed].scores["seconds"] / rounds[seed].scores["seconds"]
            for seed in sorted(rounds.keys() & baseline.keys())
        ),
    )


_GATES = {"priors": gate_priors, "train": gate_training, "sample": gate_sampling}


def _faster(rounds: Mapping[int, Record], others: Mapping[int, Record]) -> Effect | None:
    """The others' seconds over its own."""
    return paired_ratio(
        Pair(
            rounds[seed].scores["seconds"],
            others[seed].scores["seconds"],
            frozenset({rounds[seed].unit, others[seed].unit}),
        )
        for seed in sorted(rounds.keys() & others.keys())
    )


def _name(contest: str, record: Record) -> str:
    """Who did it, and by which levers."""
    contender = str(record.settings["contender"])
    levers = [
        f"{name} = {value_words(record.settings.get(name, default))}"
        for name, default in _LEVERS[contest].items()
        if record.settings.get(name, default) != default
    ]
    return ", ".join([contender, *levers])
