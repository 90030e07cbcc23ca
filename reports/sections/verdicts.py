"""What the publication claimed, and what this run says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from bench.verdicts import NOT_DISTINGUISHABLE, NOT_MEASURED, TOO_FEW, WITHHELD
from reports.blocks import Block, Cell, Listing, Section, Table, Text
from reports.claims import PROTOCOLS, Judged
from reports.context import PER_IMAGE, Report
from reports.figures.rows import effect_row
from reports.sections.loaders import loader_finding
from reports.words import effect_words, judged, plural, seconds, verdict_word

TITLE = "Verdicts on the claims"
_SIGNS = {"reproduced": "✓", "agrees": "✓", "contradicted": "✗", "disagrees": "✗"}


def verdicts(report: Report, found: Sequence[Judged]) -> Section:
    """A row a claim and protocol: as published, as measured here, and the word."""
    blocks: list[Block] = []
    withheld = [one for one in found if one.verdict.word == WITHHELD]
    if withheld:
        blocks.append(Listing([f"{_whose(one)}: {_words(one)}" for one in withheld], "Withheld"))
    blocks.append(_table(report, found))
    blocks += [Text(text) for text in _time_halves(report)]
    return Section("verdicts", TITLE, _finding(found), blocks)


def _finding(found: Sequence[Judged]) -> str:
    said = []
    for protocol in PROTOCOLS:
        some = [one for one in found if one.protocol == protocol]
        counts = Counter(one.word for one in some if one.word != NOT_MEASURED)
        if counts:
            words = ", ".join(f"{count} {_of(count, word)}" for word, count in counts.items())
            said.append(f"under the {protocol} protocol {words}")
    if not said:
        return "None of the eight claims was measured in this run."
    measured = {one.claim.number for one in found if one.measured is not None}
    return f"Measured of the eight claims: {len(measured)}; {'; '.join(said)}."


def _of(count: int, word: str) -> str:
    """1 agrees, 2 agree."""
    return word.removesuffix("s") if count > 1 and word in ("agrees", "disagrees") else word


def _table(report: Report, found: Sequence[Judged]) -> Table:
    rows = [
        [
            Cell(f"{one.claim.number}. {one.claim.text}", one.claim.number),
            # Next to the claim: on a phone the rest is reached by scrolling.
            Cell(_marked(one), one.word),
            Cell(_terms(one), _terms(one)),
            _drawn(one),
            Cell(_measured(one), _mean(one)),
            _published(one),
            Cell(_why(report, one), None),
        ]
        for one in sorted(found, key=lambda one: one.claim.number)
    ]
    return Table(
        ["claim", "verdict", "protocol", "effect", "here", "published",
         "why, or what is missing"],
        rows,
        "Effect: a dot and its 95 % interval, no effect in the middle, at the right how far each "
        "axis reaches; grey: what counts as equal; hollow: as published, where it is the same "
        "quantity. "
        "One test a claim and protocol, fixed before any run; those of a protocol are corrected "
        "together (Holm 1979). Paper protocol: the publication's flaws, its all-pairs PSNR. "
        "Corrected: the held-out loss, where lower is better. A replay has the published images, "
        "net, precision and class of device; of anything else the word is for these data alone. "
        "What a control shows as well is withheld.",
        stacked=True,
    )  # fmt: skip


def _published(one: Judged) -> Cell:
    theirs = one.claim.published
    return Cell(one.claim.published_words, None if isinstance(theirs, str) else theirs.mean)


def _drawn(one: Judged) -> Cell:
    measured, theirs = one.measured, one.claim.published
    if measured is None or (effect := measured.effect) is None:
        return Cell("–", None)
    quantity = measured.quantity
    published = None
    if not isinstance(theirs, str) and theirs.is_ratio == effect.is_ratio:
        published = theirs
    return Cell(
        "",
        effect.distance,
        svg=effect_row(effect, quantity.margin, published, quantity.unit or "", _measured(one)),
    )


def _whose(one: Judged) -> str:
    return f"Claim {one.claim.number} under the {one.protocol} protocol"


def _words(one: Judged) -> str:
    measured = one.measured
    assert measured is not None
    return judged(one.verdict, measured.quantity.unit or "", of_seeds=_of_seeds(one))


def _of_seeds(one: Judged) -> bool:
    measured = one.measured
    return measured is not None and measured.quantity.of_seeds and measured.seeds is None


def _measured(one: Judged) -> str:
    measured = one.measured
    if measured is None or measured.effect is None:
        return NOT_MEASURED
    said = effect_words(
        measured.effect, measured.quantity.unit or "", of_seeds=_of_seeds(one), seeds=measured.seeds
    )
    return f"{measured.quantity.name}, {measured.contrast}: {said}"


def _mean(one: Judged) -> float | None:
    effect = None if one.measured is None else one.measured.effect
    return None if effect is None else effect.mean


def _terms(one: Judged) -> str:
    """corrected, analogue; of what was not measured the protocol alone."""
    if one.measured is None:
        return one.protocol
    return f"{one.protocol}, {'replay' if one.replay else 'analogue'}"


def _marked(one: Judged) -> str:
    """The word, with a sign where it decides."""
    if one.word in _SIGNS:
        return f"{_SIGNS[one.word]} {one.word}"
    unit = "" if one.measured is None else one.measured.quantity.unit or ""
    return verdict_word(one.verdict, unit, of_seeds=_of_seeds(one))


def _why(report: Report, one: Judged) -> str:
    said = []
    if one.claim.number == 2 and one.measured is not None:
        said += loader_finding(report.under(one.protocol))[:1]
    if one.verdict.word in (NOT_MEASURED, TOO_FEW):
        suite = one.claim.needs[one.protocol]
        twin = "" if report.run.environment.device == "cuda" else "-cpu"
        said.append(f"`python -m bench run {suite}{twin}` measures it")
    elif one.verdict.word == WITHHELD and one.verdict.control is None:
        said.append("A grid with `repeat = [1, 2]` makes its control: the same case run twice")
    elif one.verdict.word == NOT_DISTINGUISHABLE:
        said += _cost(one)
    return ". ".join(text.removesuffix(".") for text in said) or "–"


def _cost(one: Judged) -> list[str]:
    """What the pairs that are missing would take."""
    measured, needed = one.measured, one.verdict.pairs_needed
    if measured is None or needed is None or measured.seeds is not None:
        return []
    known = [taken for outcome in measured.outcomes if (taken := outcome.total_seconds)]
    more = needed - len(measured.pairs)
    if not known or more <= 0:
        return []
    taken = 2 * more * sum(known) / len(known)
    return [
        f"{plural(more, 'more pair')} would decide between equality and an effect, some "
        f"{seconds(taken)}; what an interval of a wanted width takes, which is another number, is "
        "in the section on more pairs"
    ]


def _time_halves(report: Report) -> Iterator[str]:
    """Of claims 5 and 6: what moves no training step should take no time, and is a control."""
    for protocol in PROTOCOLS:
        part = report.under(protocol)
        said = [
            f"{name} {judged(part.judge(PER_IMAGE, *sides))}"
            for name, sides in part.idle_sides.items()
            if part.effect(PER_IMAGE, *sides) is not None
        ]
        if said:
            yield (
                f"The time halves of claims 5 and 6, in training seconds an image under the "
                f"{protocol} protocol: {'; '.join(said)}. Neither changes the work of a step."
            )
