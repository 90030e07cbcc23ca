"""The figures that each section shows, from its tables, against sums done by hand."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from reports import page
from reports.context import (
    EPS_LOSS,
    FIRST_RUN,
    ON_DIP,
    ON_IMAGES,
    PER_IMAGE,
    RUN_AGAIN,
    TRAIN_SECONDS,
    Report,
    square_sides,
)
from reports.effects import NOT_MEASURED
from reports.figures import plots, svg
from reports.figures import quality as plots_quality
from reports.figures import restoration as plots_restoration
from reports.figures.plots import Line
from reports.figures.quality import ScalingPanel
from reports.load import load_run
from reports.sections.published import published
from tests.test_report_tables import (
    Folder,
    Given,
    arms_run,
    case,
    cut_short,
    grid_run,
    images,
    record,
    row,
    toy_run,
)

# t(0.975, 2) / sqrt(3): half an interval over three values, in their standard deviations.
HALF = 4.302652729911275 / math.sqrt(3)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "render", lambda *_, **__: Markup())


def section(path: Path, name: str) -> str:
    built = page.build(load_run(path))["report.html"].decode()
    found = re.search(rf'<section id="{name}">.*?</section>', built, re.DOTALL)
    assert found is not None, name
    return found.group()


def text(source: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", source)).split())


def rows_of(source: str, first: str) -> list[list[str]]:
    """The rows of the one table whose first column has this name."""
    (found,) = [
        table
        for table in re.findall(r"<table.*?</table>", source, re.DOTALL)
        if text(re.findall(r"<th[^>]*>(.*?)</th>", table)[0]) == first
    ]
    return [
        [text(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", line, re.DOTALL)]
        for line in re.findall(r"<tr[^>]*>(?!<th)(.*?)</tr>", found, re.DOTALL)
    ]


def tables_of(source: str, first: str) -> list[list[list[str]]]:
    """As `rows_of`, of each of several such tables that are shown; folded ones come last."""
    tables = re.findall(r"<table.*?</table>", source, re.DOTALL)
    named = [t for t in tables if text(re.findall(r"<th[^>]*>(.*?)</th>", t)[0]) == first]
    folded = re.findall(r"<details>.*?</details>", source, re.DOTALL)
    named.sort(key=lambda table: any(table in details for details in folded))
    return [rows_of(table, first) for table in named]


def close(values: list[str], expected: list[float]) -> bool:
    return [float(value) for value in values] == pytest.approx(expected, rel=1e-5)


def square(path: Path) -> Path:
    """Target x loader: 50, 40, 62.5 and 62.5 ms an image."""
    given: list[Given] = [
        ({"train_on": "images", "loader": "memory"}, 1.0, 0.5),
        ({"train_on": "dip", "loader": "memory"}, 0.8, 0.5),
        ({"train_on": "images", "loader": "decode"}, 1.25, 0.5),
        ({"train_on": "dip", "loader": "decode"}, 1.25, 0.5),
    ]
    return arms_run(path, *given)


def test_target_by_loader(tmp_path: Path) -> None:
    found = section(square(tmp_path / "run"), "loaders")
    assert ".." not in text(section(tmp_path / "run", "verdicts"))
    cells, drawn = tables_of(found, "train on")
    assert [line[:6] for line in cells] == [
        ["images", "memory", "–", "device", "50.0 ms", "5.00 ms"],
        ["images", "decode", "encoded", "device", "62.5 ms", "12.5 ms"],
        ["dip", "memory", "–", "device", "40.0 ms", "4.00 ms"],
        ["dip", "decode", "encoded", "device", "62.5 ms", "12.5 ms"],
    ]
    assert [[line[2], line[5]] for line in drawn][:2] == [["50", "5"], ["62.5", "12.5"]]
    effects = rows_of(found, "on training seconds an image")
    # sqrt(1.25 * 1.5625); 0.8 in memory; 1.5625 / 1.25.
    assert [line[1] for line in effects] == ["+39.8 %", "−20.0 %", "+25.0 %", NOT_MEASURED]


def test_the_contrast_as_published(tmp_path: Path) -> None:
    found = rows_of(section(square(tmp_path / "run"), "published"), "row")
    ours = {line[0]: line[1:3] for line in found}
    # 0.8 in memory over 1.25 decoded; at equal loaders 0.8 and 1.
    assert ours["ours, loaders as published"] == ["0.64", "0.64"]
    assert ours["ours, equal loaders"] == ["0.8, 1", "0.894427"]


def test_a_square_is_of_one_milestone(tmp_path: Path) -> None:
    path = square(tmp_path / "run")
    cut_short(path, "u3")
    report = Report(load_run(path))
    (four,) = report.groups(PER_IMAGE, *square_sides("memory"))
    assert [outcome.settings["epochs"] for outcome in four] == [5, 5, 5, 5]
    (two,) = report.groups(
        PER_IMAGE,
        {"train_on": "images", "loader": "decode"},
        {"train_on": "dip", "loader": "memory"},
    )
    assert [outcome.settings["epochs"] for outcome in two] == [10, 10]
    assert "5 epochs, mean over one seed" in text(section(path, "loaders"))
    # The memory pair after 10, the decoded pair after 5.
    assert "all else equal and after 5 or 10 epochs on both sides" in text(section(path, "answer"))
    # A row of its own for each setting of the published table, none of which is here.
    assert "has 0" in published(report).finding


def test_the_control_strip(tmp_path: Path) -> None:
    given: list[Given] = [
        ({}, 1.0, 0.5),
        ({"repeat": 2}, 1.1, 0.5),
        ({"num_train_timesteps": 500}, 1.25, 0.5),
        ({"beta_schedule": "squaredcos_cap_v2"}, 1.5, 0.5),
    ]
    none = ["–", "–", "–"]
    assert rows_of(section(arms_run(tmp_path / "run", *given), "answer"), "row") == [
        ["A-vs-A", "1.1", "1.1", *none],
        ["1000 / 500 timesteps", "0.8", "0.8", *none],
        ["squaredcos / linear", "1.5", "1.5", *none],
    ]


def test_seeds_are_paired_with_themselves_and_repeats_with_nobody(tmp_path: Path) -> None:
    given: list[Given] = [
        ({"seed": 0}, 1.0, 0.5),
        ({"seed": 1}, 2.0, 0.5),
        ({"seed": 0, "repeat": 2}, 1.1, 0.5),
        ({"seed": 0, "train_on": "dip"}, 0.8, 0.6),
        ({"seed": 1, "train_on": "dip"}, 1.0, 0.5),
    ]
    report = Report(load_run(arms_run(tmp_path / "run", *given)))
    pairs = report.pairs(TRAIN_SECONDS, ON_IMAGES, ON_DIP)
    assert [(pair.base, pair.other) for pair in pairs] == [(2.0, 1.6), (4.0, 2.0)]
    (again,) = report.pairs(TRAIN_SECONDS, FIRST_RUN, RUN_AGAIN)
    assert (again.base, again.other) == (2.0, 2.2)
    assert report.reference is not None
    assert [
        [outcome.record.seed for outcome in group] for group in report.reference.arms.values()
    ] == [[0, 1], [0, 1]]
    assert "(2 pairs of 2 seeds, no interval)" in text(section(report.run.folder, "loss"))


def test_loss_of_one_seed_has_no_interval(tmp_path: Path) -> None:
    path = grid_run(tmp_path / "grid")
    assert "3 pairs of one seed, no interval" in text(section(path, "answer"))
    assert "3 pairs of one seed, no interval" in text(section(path, "loss"))
    quality = [
        line
        for line in rows_of(section(path, "scaling"), "factor")
        if line[1] == "held-out loss" and line[2] != NOT_MEASURED
    ]
    assert {line[3] for line in quality} == {"no interval"}
    assert {line[4] for line in quality} == {"2 of one seed", "6 of one seed"}
    assert {line[6] for line in quality} == {
        "no verdict, it takes 4 more pairs and 2 more seeds",
        "no verdict, it takes 2 more seeds",
    }


def test_loss_of_three_seeds_has_the_interval_over_their_means(tmp_path: Path) -> None:
    ratios = {0: (1.1, 1.2), 1: (1.3, 1.3), 2: (1.0, 1.4)}
    given: list[Given] = []
    for seed, of_sizes in ratios.items():
        for size, ratio in zip((4, 8), of_sizes, strict=True):
            given.append(({"seed": seed, "num_images": size}, 1.0, 1.0))
            given.append(({"seed": seed, "num_images": size, "train_on": "dip"}, 1.0, ratio))
    path = arms_run(tmp_path / "run", *given)
    means = [math.log(a * b) / 2 for a, b in ratios.values()]
    middle, half = float(np.mean(means)), HALF * float(np.std(means, ddof=1))
    effect = Report(load_run(path)).effect(EPS_LOSS, ON_IMAGES, ON_DIP)
    assert effect is not None
    assert (effect.n, effect.pairs, effect.p) == (3, 6, 2 / 8)
    assert (effect.low, effect.mean, effect.high) == pytest.approx(
        (math.exp(middle - half), math.exp(middle), math.exp(middle + half))
    )
    said = text(section(path, "loss"))
    assert "+20.9 % (6 pairs of 3 seeds, 95 % interval +2.99 % to +41.9 %): withheld" in said
    (line,) = [
        line
        for line in rows_of(section(path, "scaling"), "factor")
        if line[:2] == ["images: 8 / 4", "held-out loss"]
    ]
    assert " to " in line[3]
    assert line[4] == "6 of 3 seeds"


def test_scaling(tmp_path: Path) -> None:
    found = section(grid_run(tmp_path / "grid"), "scaling")
    # 16 / 4 images: 4 times the seconds, the same an image; losses 1.16 / 1.04 and 2.16 / 2.04.
    # The arms of a size run back to back: one block a size.
    assert (
        "4× the images, training seconds: 4.00× (4 pairs that share one measurement, no interval): "
        "no verdict, it takes 5 more pairs" in text(found)
    )
    ratios = {tuple(line[:2]): line[2] for line in rows_of(found, "factor")}
    assert ratios["images: 16 / 4", "training seconds an image"] == "0.00 %"
    assert ratios["images: 16 / 4", "held-out loss"] == "+8.67 %"
    assert ratios["epochs: 10 / 5", "training seconds an image"] == "0.00 %"
    assert ratios["epochs: 10 / 5", "held-out loss"] == "0.500×"
    drawn = [line[1:] for line in rows_of(found, "quantity") if line[0] == "training seconds"]
    # In memory 1 s an image and milestone.
    assert [line[2:] for line in drawn if line[:2] == ["images", "images"]][:3] == [
        ["4", "8"],
        ["8", "16"],
        ["16", "32"],
    ]


def test_levels_that_no_setting_has_together_are_not_held_against_each_other(
    tmp_path: Path,
) -> None:
    given: list[Given] = [
        ({"num_images": size, "num_train_timesteps": steps}, 2.0 * steps / 1000, 0.5)
        for size, levels in ((4, (250, 1000)), (8, (1000, 2000)))
        for steps in levels
    ]
    found = section(arms_run(tmp_path / "run", *given), "scaling")
    ratios = {tuple(line[:2]): line[2] for line in rows_of(found, "factor")}
    assert ratios["timesteps: 1000 / 250", "training seconds an image"] == "4.00×"
    assert "4× the timesteps, training seconds: 4.00× (1 pair" in text(found)


def test_a_line_along_an_axis_is_of_one_milestone(tmp_path: Path) -> None:
    given: list[Given] = [({"num_images": size}, float(size), 0.5) for size in (4, 8)]
    path = arms_run(tmp_path / "run", *given)
    cut_short(path, "u1")
    drawn = rows_of(section(path, "scaling"), "quantity")
    assert [line[3:] for line in drawn if line[1] == "images"] == [
        ["4", "4"],
        ["8", "8"],
        ["4", "0.5"],
        ["8", "0.5"],
    ]


def sharing(path: Path, *ratios: float, again: tuple[float | None, ...] = (1.0, 1.0, 1.0)) -> str:
    """Three sizes, the largest with 0.1 + 2 * 2 = 4.1 s a run on images; priors of 8 s.

    again: the second runs on images, relative to the first; None: there was none
    """
    given: list[Given] = []
    for size, ratio, second in zip((4, 8, 16), ratios, again, strict=True):
        given.append(({"num_images": size}, size / 8, 0.5))
        if second is not None:
            given.append(({"num_images": size, "repeat": 2}, second * size / 8, 0.5))
        given.append(({"num_images": size, "train_on": "dip"}, ratio * size / 8, 0.5))
    return section(arms_run(path, *given), "ledger")


def test_break_even_where_all_of_the_interval_is_a_gain(tmp_path: Path) -> None:
    found = sharing(tmp_path / "run", 0.4, 0.5, 0.625)
    end = math.exp(HALF * math.log(1.25))
    low, high = 0.1 + 4 * 0.5 / end, 0.1 + 4 * 0.5 * end
    # 8 / (4.1 - 2.1) runs.
    (line,) = rows_of(found, "priors, s")
    assert close(line, [8.0, 4.1, 2.1, low, high, 4.0, 8 / (4.1 - low)])
    assert (
        "8.00 s would be paid back after 4.00 training runs that share them (95 % interval 2.81 "
        "to 15.4; 2.10 s against 4.10 s a run)"
    ) in text(found)
    assert "paid back after 4.00" in text(section(tmp_path / "run", "answer"))


def test_break_even_that_the_run_cannot_tell(tmp_path: Path) -> None:
    found = sharing(tmp_path / "run", 0.8, 1.0, 1.25)
    low = 0.1 + 4 / math.exp(HALF * math.log(1.25))
    (line,) = rows_of(found, "priors, s")
    assert line[5] == "–"
    assert close([*line[:4], line[6]], [8.0, 4.1, 4.1, low, 8 / (4.1 - low)])
    said = "This run cannot tell whether sharing the priors ever pays for their 8.00 s; at least "
    assert f"{said}5 training runs would have to share them" in text(found)
    answer = text(section(tmp_path / "run", "answer"))
    assert f"{said}5 training runs" in answer
    # exp(0.5543) - 1: beside the words of the suite, before the finding.
    assert "measured: ±74.1 %" in answer
    assert answer.index("What this run can and cannot show.") < answer.index("With DIP outputs")


def test_the_drawn_lines_meet_at_the_break_even(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def render(name: str, _: str, draw: svg.Draw, **__: object) -> Markup:
        if name == "break-even":
            draw(5.0)
        return Markup()

    monkeypatch.setattr(svg, "render", render)
    monkeypatch.setattr(plots, "break_even", lambda *given: drawn.append(given))
    sharing(tmp_path / "gain", 0.5, 0.5, 0.5)
    sharing(tmp_path / "unclear", 0.8, 1.0, 1.25)
    (lines, ends, mark, _), (_, (low, high), at_least, _) = drawn
    # 8 + 2.1 n and 4.1 n: both 16.4 s after 4 runs; drawn to 10 runs.
    assert [(line.arm, *line.x, *line.y) for line in lines] == [
        ("dip", 0.0, 10.0, pytest.approx(8.0), pytest.approx(29.0)),
        ("images", 0.0, 10.0, 0.0, pytest.approx(41.0)),
    ]
    assert ends == [[pytest.approx(8.0), pytest.approx(29.0)]] * 2
    assert mark == ("break-even at 4.00", pytest.approx(4.0))
    assert at_least == ("at least 5", pytest.approx(4.69992, rel=1e-5))
    assert low[-1] < high[-1]


def boxes(figure: Figure, *some: Text) -> list[Bbox]:
    """Where texts stand in a figure that is drawn."""
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    return [one.get_window_extent() for one in some]


@pytest.mark.parametrize("width", [svg.NARROW, 5.6])
@pytest.mark.parametrize("runs", [0.0, 0.4, 3.0, 6.7, 10.0])
def test_the_name_of_a_break_even_covers_nothing(runs: float, width: float) -> None:
    x = [0.0, 10.0]
    lines = [Line("dip", x, [80.0, 90.0], "dip"), Line("images", x, [0.0, 91.0], "images")]
    figure = plots.break_even(lines, [], ("at least 1", runs), width)
    [ax] = figure.axes
    [name] = [text for text in ax.texts if text.get_text() == "at least 1"]
    [box] = boxes(figure, name)
    others = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), ax.yaxis.label]
    seen = [one for one in others if one is not name and one.get_text()]
    assert len(seen) > 6
    assert not any(box.overlaps(other) for other in boxes(figure, *seen))
    for line in ax.lines:
        assert not line.get_path().transformed(line.get_transform()).intersects_bbox(box)
    assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)


@pytest.mark.parametrize("width", [svg.NARROW, svg.BROAD])
@pytest.mark.parametrize(
    ("levels", "losses"),
    [
        ((32.0, 64.0), (0.453, 0.444)),
        ((64.0, 128.0, 256.0), (0.21, 0.2, 0.1999, 0.15, 0.12, 0.1)),
        ((64.0, 1000.0, 1024.0, 65536.0), (12.0, 3400.0, 0.005)),
        (tuple(map(float, range(10, 90))), tuple(map(float, range(1, 90)))),
    ],
)
def test_scaling_has_its_ticks_at_what_was_measured(
    levels: tuple[float, ...], losses: tuple[float, ...], width: float
) -> None:
    lines = [Line("images", levels, [loss] * len(levels)) for loss in losses]
    panels = [ScalingPanel("images", "held-out loss", lines, "2.00×")] * 3
    figure = plots_quality.scaling(panels, 3, width)
    ax = figure.axes[0]
    for axis, values in ((ax.xaxis, levels), (ax.yaxis, losses)):
        ticks = axis.get_majorticklocs().tolist()
        assert set(ticks) <= set(values)
        if len(set(values)) <= 12:
            assert set(ticks) == set(values)
        named = {
            place: label.get_text()
            for place, label in zip(ticks, axis.get_ticklabels(), strict=True)
            if label.get_text()
        }
        # Three digits of a loss.
        assert all(float(text.replace("\N{NARROW NO-BREAK SPACE}", "")) == pytest.approx(
            place, rel=5e-3) for place, text in named.items())  # fmt: skip
        assert {min(values), max(values)} <= set(named)
        shown = boxes(figure, *(one for one in axis.get_ticklabels() if one.get_text()))
        for place, box in enumerate(shown):
            assert not any(box.overlaps(other) for other in shown[place + 1 :])


def test_break_even_never(tmp_path: Path) -> None:
    found = sharing(tmp_path / "run", 1.25, 1.25, 1.25)
    (line,) = rows_of(found, "priors, s")
    assert line[5:] == ["–", "–"]
    assert close(line[:5], [8.0, 4.1, 5.1, 5.1, 5.1])
    said = "never pays for their 8.00 s, as far as this run can see"
    assert said in text(found)
    assert said in text(section(tmp_path / "run", "answer"))


def test_break_even_within_what_the_controls_reach(tmp_path: Path) -> None:
    """DIP is 4 % faster, and the same case again up to 28 % slower or faster."""
    found = sharing(tmp_path / "run", 0.96, 0.96, 0.96, again=(1.1, 1.0, 1 / 1.1))
    (line,) = rows_of(found, "priors, s")
    reach = math.exp(2.9199856 * math.log(1.1) / math.sqrt(3))  # of the 90 % interval over 3
    fastest, slowest = 0.1 + 4 / reach, 0.1 + 4 * reach
    assert close(line[:5], [8.0, 4.1, 3.94, fastest, slowest])
    assert line[5] == "–"
    assert "This run cannot tell whether sharing the priors ever pays" in text(found)


def test_break_even_beside_a_single_pair_of_a_vs_a(tmp_path: Path) -> None:
    """As in the suite `quick`: what the noise is is not known, and so no end of any interval."""
    found = sharing(tmp_path / "run", 0.5, 0.5, 0.5, again=(None, None, 1.1))
    (line,) = rows_of(found, "priors, s")
    assert line[3:] == ["–"] * 4
    assert close(line[:3], [8.0, 4.1, 2.1])
    assert "or A-vs-A beside it, has no interval here." in text(found)
    said = text(section(tmp_path / "run", "answer"))
    assert "at best, half the interval of DIP's effect; A-vs-A has no interval." in said


def test_break_even_without_an_interval(tmp_path: Path) -> None:
    found = section(toy_run(tmp_path / "toy").finish(), "ledger")
    # 0.8 + 4.5; the same with 0.8 times the training.
    assert rows_of(found, "priors, s") == [["8.3", "5.3", "4.4", "–", "–", "–", "–"]]
    assert "cannot tell whether sharing the priors ever pays for their 8.30 s: DIP" in text(found)
    assert "measured: none" in text(section(tmp_path / "toy", "answer"))


def test_the_bills(tmp_path: Path) -> None:
    found = section(toy_run(tmp_path / "toy").finish(), "ledger")
    assert rows_of(found, "arm") == [
        ["images, memory", "0.8", "0", "4.5", "0.4", "0.35"],
        ["dip, memory", "0.82", "8.3", "3.6", "0.4", "0.35"],
    ]


def test_the_loss_curve(tmp_path: Path) -> None:
    found = section(toy_run(tmp_path / "toy").finish(), "loss")
    # 0.3 of preparing and 2.25 or 2.7 a part; 8.3 + 0.5 + 0.02 and 1.8 a part.
    assert [[*line[:4], line[6]] for line in rows_of(found, "setting")] == [
        ["4 images, 1000 linear", arm, epochs, seconds, loss]
        for arm, epochs, seconds, loss in (
            ("images, memory", "5", "2.55", "0.5"),
            ("images, memory", "10", "4.8", "0.25"),
            ("dip, memory", "5", "10.62", "0.4"),
            ("dip, memory", "10", "12.42", "0.2"),
        )
    ]
    assert "mean over the log-SNR levels −3, 0, 3 and 6, the same noise" in text(found)


def test_the_loss_curve_leaves_room_for_the_priors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(svg, "render", lambda *given, **_: (given[2](5.0), Markup())[1])
    for name in ("forest", "loaders", "bars", "break_even"):
        monkeypatch.setattr(plots, name, lambda *_: None)
    monkeypatch.setattr(plots_restoration, "restoration", lambda *_: None)
    for name in ("loss_curve", "loss_facets", "anchors", "scaling"):
        monkeypatch.setattr(
            plots_quality, name, lambda *given, name=name: drawn.append((name, given[0]))
        )
    page.build(load_run(toy_run(tmp_path / "toy").finish()))
    (facet,) = [given for name, given in drawn if name == "loss_curve"]
    # 8 of the fit, 0.25 of the join, 0.05 of the encoding.
    assert facet.priors == pytest.approx(8.3)
    assert [(c.arm, c.joined, len(c.points), c.seeds) for c in facet.curves] == [
        ("images", True, 2, []),
        ("dip", True, 2, []),
    ]


def test_noise_by_stage(tmp_path: Path) -> None:
    found = rows_of(section(toy_run(tmp_path / "toy").finish(), "noise"), "stage")
    assert dict(found) == {
        "prepare": "1, 1",
        "sample": "1",
        "score_anchors": "1",
        "score_generation": "1",
        "score_net": "1",
        "train_ddpm": "1.2, 1.2",
    }


def test_restoration(tmp_path: Path) -> None:
    found = section(toy_run(tmp_path / "toy").finish(), "restoration")
    # 4.02 for the start and 0.2 to sample, two images.
    assert rows_of(found, "way") == [["dip, ddim, 5 steps", "2.11", "23", "–", "–", "1"]]
    assert "dip, ddim, 5 steps 23.0 dB in 2.11 s; the degraded input itself has 21.0 dB" in text(
        found
    )


def in_chunks(path: Path) -> Path:
    """Three held-out images, their DIP fitted in chunks of two, restored in 5 and in 10 steps."""
    folder = Folder(path)
    degraded = np.concatenate([images(2, -0.5), images(1, -0.1)])
    rows = [
        row("priors", "held", "prepare", 0.1),
        row("priors", "degraded", "degrade", 0.01, "held"),
        row("priors", "second", "fit_priors", 1.0, "degraded"),
        row("priors", "first", "fit_priors", 3.0, "degraded"),
        row("priors", "joined", "join", 0.5, "first", "second"),
    ]
    kept = {
        "held": {"pixels": degraded},
        "first": {"outputs": images(2, -0.4)},
        "second": {"outputs": images(1, -0.3)},
    }
    folder.unit("priors", rows, artifacts=kept)
    loaded = [row("u", one.key, one.function, None, *one.parents) for one in rows]
    made = [row("u", "net", "train_ddpm", 1.0), row("u", "start", "start_dip", 0.5, "joined")]
    found = []
    for taken in (10, 5):
        made.append(row("u", f"sampled-{taken}", "sample", taken / 10, "net", "start"))
        scored = f"scored-{taken}"
        parents = (f"sampled-{taken}", "held", "degraded")
        made.append(row("u", scored, "score_restoration", 0.1, *parents))
        of = case(
            epochs=10, task="restore", start_from="dip", num_inference_steps=taken, num_samples=3
        )
        keys = [*(one.key for one in loaded), "net", "start", f"sampled-{taken}", scored]
        found.append(record("u", keys, f"sampled-{taken}", of, paired_psnr=20.0 + taken))
    pictures = {f"sampled-{taken}": {"images": images(3, 0.0)} for taken in (5, 10)}
    folder.unit("u", loaded + made, found, needs=("priors",), artifacts=pictures)
    return folder.finish()


def test_restored_pictures_are_those_of_the_most_steps(tmp_path: Path) -> None:
    found = text(section(in_chunks(tmp_path / "run"), "pictures"))
    assert "dip, ddim, 10 steps" in found
    assert "dip, ddim, 5 steps" not in found


def test_a_level_that_a_schedule_does_not_reach_is_null(tmp_path: Path) -> None:
    path = square(tmp_path / "run")
    file = path / "units" / "u0" / "records.jsonl"
    file.write_text(
        file.read_text().replace('"eps_loss":', '"eps_loss_at_log_snr_-6":0.1,"eps_loss":')
    )
    report = Report(load_run(path))
    assert report.pairs(EPS_LOSS, ON_IMAGES, ON_DIP)
    assert "eps_loss_at_log_snr_-6" in section(path, "results")


def test_quantities_know_their_replicate(tmp_path: Path) -> None:
    report = Report(load_run(square(tmp_path / "run")))
    (first, *_) = report.pairs(PER_IMAGE, ON_IMAGES, ON_DIP)
    assert first.executions == {"u0", "u1"}
    (loss,) = report.pairs(EPS_LOSS, ON_IMAGES, ON_DIP)
    assert loss.executions == {"seed 0"}
