"""The eight claims of the publication: what each rests on there, and its one test here.

Which test a claim has under a protocol is fixed here, before any run: all else that the report
tells of it is descriptive. Sources: the published table, and `bench.verdicts` for the words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.stats import Effect, Pair, effect_of, t_test_p
from bench.verdicts import (
    EQUAL,
    NOT_DISTINGUISHABLE,
    NOT_MEASURED,
    TOO_FEW,
    WITHHELD,
    Verdict,
    holm,
    judge,
)
from reports.context import (
    ALL_PAIRS_PSNR,
    COSINE,
    EPS_LOSS,
    LINEAR,
    ON_DIP,
    ON_IMAGES,
    PAIRED_PSNR,
    PER_IMAGE,
    Report,
)
from reports.pairs import Group, Quantity, Side, values
from reports.publication import (
    PUBLISHED_ARM,
    PublishedRow,
    is_replay,
    published_effect,
    published_pairs,
    published_rows,
)
from reports.tables import Outcome
from reports.ways import OF_DEGRADED, best_pairs, compared, ways, whole
from reports.words import effect_words, percent

PROTOCOLS = ("paper", "corrected")
# The share of the total that counts as much.
MUCH = 0.10
PRIORS_SHARE = Quantity(
    "seconds of the priors",
    lambda one: (
        None
        if (made := one.group_seconds("priors")) is None or not one.total_seconds
        else made / one.total_seconds
    ),
    "more",
    "less",
    # As a ratio: no share is below nothing, and the interval of a difference could be.
    margin=None,
)
_NO_VERDICT = {EQUAL, NOT_DISTINGUISHABLE, WITHHELD, TOO_FEW, NOT_MEASURED}


@dataclass(frozen=True)
class Measured:
    """What the test of a claim found.

    contrast: what was held against what
    claimed: the word of `quantity` that the claim stands for
    outcomes: that it rests on
    groups: of the two that each pair is made of, where pairs are of outcomes
    seeds: see `bench.verdicts.judge`
    """

    quantity: Quantity
    contrast: str
    claimed: str
    pairs: Sequence[Pair]
    outcomes: Sequence[Outcome]
    controls: Sequence[Effect | None] = ()
    seeds: int | None = None
    groups: Sequence[Group] = ()

    @cached_property
    def effect(self) -> Effect | None:
        return self.quantity.effect(self.pairs)

    @property
    def p(self) -> float | None:
        return None if self.effect is None else t_test_p(self.effect)


Test = Callable[[Report], Measured | None]


@dataclass(frozen=True)
class Claim:
    """text: as the publication means it; published: what it had, or in words that it had nothing

    tests: by protocol; needs: the suite that measures it, by protocol, of which `-cpu` is the twin
    """

    number: int
    text: str
    published: Effect | str
    tests: Mapping[str, Test]
    needs: Mapping[str, str]

    @property
    def published_words(self) -> str:
        if isinstance(self.published, str):
            return self.published
        return effect_words(self.published, "" if self.published.is_ratio else "dB")


@dataclass(frozen=True)
class Judged:
    """A claim under a protocol; measured: None if nothing of it was."""

    claim: Claim
    protocol: str
    measured: Measured | None
    verdict: Verdict
    replay: bool

    @property
    def word(self) -> str:
        """Reproduced or contradicted of a replay, agrees or disagrees of an analogue, or what
        leaves both open."""
        if self.measured is None or self.verdict.word in _NO_VERDICT:
            return self.verdict.word
        agrees = self.verdict.word == self.measured.claimed
        if self.replay:
            return "reproduced" if agrees else "contradicted"
        return "agrees" if agrees else "disagrees"


def judged_claims(report: Report) -> list[Judged]:
    """Every claim under every protocol, those of one protocol corrected together by Holm's."""
    return [one for protocol in PROTOCOLS for one in _judged_under(report, protocol)]


def _judged_under(report: Report, protocol: str) -> list[Judged]:
    part = report.under(protocol)
    found = {claim.number: claim.tests[protocol](part) for claim in CLAIMS}
    ps = {f"{number}": one.p for number, one in found.items() if one is not None}
    adjusted = holm({number: p for number, p in ps.items() if p is not None})
    device = report.run.environment.device
    return [
        Judged(
            claim,
            protocol,
            measured := found[claim.number],
            _verdict(measured, adjusted.get(f"{claim.number}")),
            replay=measured is not None
            and bool(measured.outcomes)
            and all(is_replay(one, device) for one in measured.outcomes),
        )
        for claim in CLAIMS
    ]


def _verdict(measured: Measured | None, adjusted_p: float | None) -> Verdict:
    if measured is None:
        return Verdict(NOT_MEASURED, None, None, NOT_MEASURED)
    quantity = measured.quantity
    return judge(
        measured.effect,
        margin=quantity.margin,
        more=quantity.more,
        less=quantity.less,
        controls=measured.controls,
        of_seeds=quantity.of_seeds and measured.seeds is None,
        seeds=measured.seeds,
        adjusted_p=adjusted_p,
    )


# Tests ------------------------------------------------------------------------------------------


def _compared(
    report: Report, quantity: Quantity, base: Side, other: Side, contrast: str, claimed: str
) -> Measured | None:
    """other against base, of all that is equal else."""
    groups = report.groups(quantity, base, other)
    if not groups:
        return None
    return Measured(
        quantity, contrast, claimed, values(groups, quantity), _all_of(groups),
        report.controls(quantity), groups=groups,
    )  # fmt: skip


def _all_of(groups: Iterable[Group]) -> list[Outcome]:
    return [one for group in groups for one in group]


def _levels(
    report: Report, setting: str, wanted: tuple[float, float]
) -> tuple[float, float] | None:
    """The two published values of an axis, or else the least and the greatest that there are."""
    there = sorted({one.number(setting) for one in report.generated})
    if set(wanted) <= set(there):
        return wanted
    return (there[0], there[-1]) if len(there) > 1 else None


def _is_better(quantity: Quantity) -> str:
    return quantity.less if quantity is EPS_LOSS else quantity.more


def _is_worse(quantity: Quantity) -> str:
    return quantity.more if quantity is EPS_LOSS else quantity.less


def _epochs(quantity: Quantity) -> Test:
    def test(report: Report) -> Measured | None:
        levels = _levels(report, "epochs", (10, 20))
        if levels is None:
            return None
        few, many = levels
        return _compared(
            report, quantity, {"epochs": few}, {"epochs": many},
            f"{many:g} against {few:g} epochs", _is_better(quantity),
        )  # fmt: skip

    return test


def _dip(
    report: Report, quantity: Quantity, contrast: str, claimed: str, *, as_published: bool, of: Side
) -> Measured | None:
    """DIP outputs against images; as_published: these decoded, and those kept in either way.

    of: settings of both
    """
    sides = [(ON_IMAGES, ON_DIP)]
    if as_published:
        (images, (decoded,)), (dip, kept) = PUBLISHED_ARM["no"], PUBLISHED_ARM["yes"]
        base: Side = {"train_on": images, "loader": decoded}
        sides = [(base, {"train_on": dip, "loader": loader}) for loader in kept]
    found = (
        _compared(report, quantity, {**base, **of}, {**other, **of}, contrast, claimed)
        for base, other in sides
    )
    return next((one for one in found if one is not None), None)


def _dip_time(*, as_published: bool) -> Test:
    return lambda report: _dip(
        report, PER_IMAGE, "DIP outputs against images", PER_IMAGE.less,
        as_published=as_published, of={},
    )  # fmt: skip


def _dip_quality(quantity: Quantity, num_images: int, *, as_published: bool) -> Test:
    """num_images: as published; where there are none of so many, of the fewest or of the most."""
    few = num_images == min(row.data_size for row in published_rows())

    def test(report: Report) -> Measured | None:
        there = sorted({one.number("num_images") for one in report.generated})
        if num_images not in there and len(there) < 2:
            return None
        count = num_images if num_images in there else there[0 if few else -1]
        claimed = _is_better(quantity) if few else _is_worse(quantity)
        return _dip(
            report, quantity, f"DIP outputs against images, of {count:g}", claimed,
            as_published=as_published, of={"num_images": count},
        )  # fmt: skip

    return test


def _timesteps(quantity: Quantity) -> Test:
    def test(report: Report) -> Measured | None:
        levels = _levels(report, "num_train_timesteps", (500, 1000))
        if levels is None:
            return None
        few, many = levels
        return _compared(
            report, quantity, {"num_train_timesteps": many}, {"num_train_timesteps": few},
            f"{few:g} against {many:g} timesteps", _is_worse(quantity),
        )  # fmt: skip

    return test


def _schedules(quantity: Quantity) -> Test:
    return lambda report: _compared(
        report, quantity, LINEAR, COSINE, "squaredcos_cap_v2 against linear", _is_better(quantity)
    )


def _start(report: Report) -> Measured | None:
    found = whole(ways(report))
    of_degraded = [one for one in compared(found) if one.rule == OF_DEGRADED]
    if not of_degraded:
        return None
    best = max(of_degraded, key=lambda one: one.way.psnr.mean)
    return Measured(
        PAIRED_PSNR,
        "start from the DIP against one from the degraded image, at no more seconds",
        PAIRED_PSNR.more,
        best_pairs(found, OF_DEGRADED),
        [*best.way.group, *best.other.group],
        seeds=len(best.way.psnrs),
    )


def _priors_share(report: Report) -> Measured | None:
    """Of each run at its last milestone; the replicate is the seed, whose priors all share."""
    last: dict[str, Outcome] = {}
    for one in report.generated:
        if one.settings["train_on"] == "dip" and one.record.repeat == 1 and PRIORS_SHARE.of(one):
            before = last.get(one.record.unit)
            if before is None or one.number("epochs") > before.number("epochs"):
                last[one.record.unit] = one
    pairs = [
        Pair(MUCH, share, frozenset({f"seed {one.record.seed}"}))
        for one in last.values()
        if (share := PRIORS_SHARE.of(one)) is not None
    ]
    if not pairs:
        return None
    contrast = f"against {percent(MUCH)} of all"
    return Measured(PRIORS_SHARE, contrast, PRIORS_SHARE.more, pairs, list(last.values()))


# What the publication had -------------------------------------------------------------------------


def _differences(
    base: Callable[[PublishedRow], bool], other: Callable[[PublishedRow], bool], *names: str
) -> Effect:
    """Of published PSNRs that differ in what `names` leave out; single runs, so no interval."""

    def key(row: PublishedRow) -> tuple[object, ...]:
        return tuple(getattr(row, name) for name in names)

    first = {key(row): row.psnr_db for row in published_rows() if base(row)}
    pairs = [
        row.psnr_db - first[key(row)]
        for row in published_rows()
        if other(row) and key(row) in first
    ]
    effect = effect_of(pairs)
    return dataclasses.replace(effect, low=None, high=None, p=None, standard_error=None)


def _published_claims() -> list[Claim]:
    axes = ("dip", "data_size", "epochs", "timesteps", "schedule")

    def without(*names: str) -> tuple[str, ...]:
        return tuple(axis for axis in axes if axis not in names)

    theirs = published_effect(published_pairs(published_rows()))
    assert theirs is not None
    runs = {"paper": "paper", "corrected": "corrected"}
    restores = dict.fromkeys(PROTOCOLS, "restoration")

    def both(make: Callable[[Quantity], Test]) -> dict[str, Test]:
        return {"paper": make(ALL_PAIRS_PSNR), "corrected": make(EPS_LOSS)}

    def dip_at(count: int) -> dict[str, Test]:
        return {
            "paper": _dip_quality(ALL_PAIRS_PSNR, count, as_published=True),
            "corrected": _dip_quality(EPS_LOSS, count, as_published=False),
        }

    return [
        Claim(
            1, "More epochs give better samples.",
            _differences(lambda r: r.epochs == 10, lambda r: r.epochs == 20, *without("epochs")),
            both(_epochs), runs,
        ),
        Claim(
            2, "With DIP a DDPM trains in less time at equal settings.", theirs,
            {name: _dip_time(as_published=name == "paper") for name in PROTOCOLS}, runs,
        ),
        Claim(
            3, "With few images (100) DIP gives better samples.",
            _differences(
                lambda r: r.dip == "no" and (r.data_size, r.epochs) == (100, 30),
                lambda r: r.dip == "yes" and (r.data_size, r.epochs) == (100, 30),
                *without("dip"),
            ),
            dip_at(100), runs,
        ),
        Claim(
            4, "With more images (500) training on them is better.",
            _differences(
                lambda r: r.dip == "no" and r.data_size == 500,
                lambda r: r.dip == "yes" and r.data_size == 500,
                *without("dip"),
            ),
            dip_at(500), runs,
        ),
        Claim(
            5, "Fewer timesteps give worse samples (and take less time).",
            _differences(
                lambda r: r.timesteps == 1000, lambda r: r.timesteps == 500, *without("timesteps")
            ),
            both(_timesteps), runs,
        ),
        Claim(
            6, "The squared-cosine schedule gives better samples (and takes more time).",
            _differences(
                lambda r: r.schedule == "linear",
                lambda r: r.schedule == "squaredcos_cap_v2",
                *without("schedule"),
            ),
            both(_schedules), runs,
        ),
        Claim(
            7, "A start from a DIP needs fewer denoising steps for equal quality.",
            "argued, not measured", dict.fromkeys(PROTOCOLS, _start), restores,
        ),
        Claim(
            8, "Making the priors takes much of the time.", "said, without a figure",
            dict.fromkeys(PROTOCOLS, _priors_share), runs,
        ),
    ]  # fmt: skip


CLAIMS: Sequence[Claim] = _published_claims()
