"""The page in a browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from bench.course import Course
from bench.engines import ForkserverEngine
from bench.live import LIVE, LivePage
from reports.__main__ import main
from tests.test_report_commits import HISTORY, comparison
from tests.toy import SUITE, new_run, run_all

pytestmark = pytest.mark.slow

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
WIDTHS = (390, 768, 1280, 1600, 2560)
# Of ISO A4 at 96 CSS pixels an inch, within margins of a centimetre.
A4_WIDTH, A4_HEIGHT = 718, 1047

WHOLE = (
    SUITE
    + """
[[grid]]
contest = "priors"
num_images = 3
contender = ["dipddpm", "paper loop"]
seed = [0, 1]

[profile]
train_on = "dip"
num_images = 6
epochs = 2
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of everything with its page, beside another; their comparison, a list, a live page."""
    engine, runs = ForkserverEngine(), tmp_path_factory.mktemp("runs")
    run = run_all(new_run(runs / "first", engine, WHOLE), engine)
    shutil.copytree(run.folder, runs / "other")
    (runs / "compare.json").write_text(comparison().model_dump_json())
    (runs / "history.json").write_text(json.dumps(HISTORY))
    for arguments in (
        ["build", str(runs / "first")],
        ["compare", str(runs / "first"), str(runs / "other")],
        ["index", str(runs)],
        ["commits", str(runs / "compare.json")],
        ["history", str(runs / "history.json")],
    ):
        assert main(arguments) == 0
    course = Course(run.plan, list(run.plan.units)[:-2])
    course.started(run.plan.units[-1])
    LivePage(runs).write(course, {}, going=True)
    return runs


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def address(folder: Path, name: str) -> str:
    places = {
        "report": "first/report.html",
        "comparison": "other/comparison.html",
        "index": "index.html",
        "live": LIVE,
        "commits": "compare.html",
        "history": "history.html",
    }
    return (folder / places[name]).as_uri()


PAGES = ("report", "comparison", "index", "live", "commits", "history")


def of_width(width: int) -> ViewportSize:
    return {"width": width, "height": 900}


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    """The report, at the width of a laptop."""
    context = browser.new_context(viewport=of_width(1280), accept_downloads=True)
    page = context.new_page()
    page.goto(address(folder, "report"))
    yield page
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_it_asks_for_nothing_and_complains_of_nothing(
    browser: Browser, folder: Path, name: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address(folder, name))
    for tree in page.locator("details > summary").all():
        if tree.is_visible():
            tree.click()
    page.mouse.wheel(0, 20_000)
    page.wait_for_timeout(200)
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address(folder, name)]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_never_scrolls_sideways(browser: Browser, folder: Path, name: str, width: int) -> None:
    context = browser.new_context(viewport=of_width(width))
    page = context.new_page()
    page.goto(address(folder, name))
    found = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    context.close()
    assert found[0] <= found[1]


@pytest.mark.parametrize("width", WIDTHS)
def test_verdicts_and_their_effects_are_seen_without_scrolling_sideways(
    browser: Browser, folder: Path, width: int
) -> None:
    context = browser.new_context(viewport=of_width(width))
    page = context.new_page()
    page.goto(address(folder, "report"))
    verdicts = page.locator("#verdicts")
    inner, outer = verdicts.locator(".scroll").evaluate("one => [one.scrollWidth, one.clientWidth]")
    assert inner <= outer
    rows = verdicts.locator("tbody tr")
    drawn = 0
    for row in rows.all():
        verdict = row.locator("td").nth(1)
        for place in (verdict, *row.locator("svg").all()):
            box = place.bounding_box()
            assert box is not None and box["width"] > 20
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
            drawn += place is not verdict
        if width == 390:  # each in a block, its parts below one another
            tops = row.locator("td:visible").evaluate_all(
                "all => all.map(one => one.getBoundingClientRect().top)"
            )
            assert tops == sorted(set(tops)) and len(tops) > 3
            label = verdict.evaluate("one => getComputedStyle(one, '::before').content")
            assert label.startswith('"verdict"')
    assert drawn > 4
    # It is a table all the same to who does not see it.
    assert verdicts.get_by_role("table").count() == 1
    assert verdicts.get_by_role("columnheader").count() == 7
    assert verdicts.get_by_role("row").count() == 1 + rows.count()
    context.close()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_serious_violation(
    browser: Browser, folder: Path, name: str, scheme: Any, width: int
) -> None:
    # What the page's own policy forbids: a script that is not the page's.
    context = browser.new_context(viewport=of_width(width), color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(address(folder, name))
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run()")
    context.close()
    assert len(found["passes"]) > 10
    bad = [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert bad == []


def test_dark_is_dark(browser: Browser, folder: Path) -> None:
    for scheme, dark in (("light", False), ("dark", True)):
        context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(address(folder, "report"))
        colours = [
            [int(part) for part in re.findall(r"\d+", page.evaluate(
                f"getComputedStyle(document.body).{what}"
            ))[:3]]
            for what in ("backgroundColor", "color")
        ]  # fmt: skip
        context.close()
        ground, ink = map(sum, colours)
        assert (ground < ink) is dark


def test_a_table_is_sorted_by_its_values(page: Page) -> None:
    table = page.locator("#results table.sortable").first
    names = table.locator("th").all_inner_texts()
    column = names.index("total, s")
    head = table.locator("th").nth(column)

    def shown() -> list[float]:
        cells = table.locator(f"tbody td:nth-child({column + 1})")
        values = cells.evaluate_all("all => all.map(one => one.dataset.v ?? one.textContent)")
        return [float(one) for one in values]

    before = shown()
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown() == sorted(before) != before
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert shown() == sorted(before, reverse=True)


def test_a_table_is_filtered_by_words(page: Page) -> None:
    table = page.locator("#results table.sortable").first
    rows = table.locator("tbody tr")
    texts = rows.all_inner_texts()
    wanted = [text for text in texts if "dip" in text.lower() and "6" in text]
    assert 0 < len(wanted) < len(texts)
    page.locator("#results .filter input").first.fill("DIP 6")
    assert [row.inner_text() for row in rows.all() if row.is_visible()] == wanted
    page.locator("#results .filter input").first.fill("")
    assert all(row.is_visible() for row in rows.all())


def test_the_data_of_a_figure_and_of_a_table_come_as_a_file(page: Page, tmp_path: Path) -> None:
    for place in ("#ledger figure", "#results .caption"):
        block = page.locator(place).first
        table = page.locator(f"{place.split()[0]} table").first
        # Behind a figure are values; a table is saved as it is read, with plain spaces.
        of_cell = "c.dataset.v ?? c.textContent" if "figure" in place else "c.textContent"
        rows = table.evaluate(
            f"one => [...one.rows].map(row => [...row.cells].map(c => {of_cell}))"
        )
        spaces = str.maketrans({"\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " "})
        rows = [[text.translate(spaces) for text in row] for row in rows]
        with page.expect_download() as waiting:
            block.locator("button", has_text="CSV").click()
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        with path.open(encoding="utf-8", newline="") as stream:
            assert list(csv.reader(stream)) == rows
        assert path.stem == (block.get_attribute("id") or block.evaluate("one => one.id"))


def test_each_figure_and_table_has_an_address_of_its_own(page: Page) -> None:
    ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    links = page.locator(".link").evaluate_all("all => all.map(one => one.hash.slice(1))")
    assert len(links) > 20 and set(links) <= set(ids)
    blocks = page.locator("section > figure, section > .scroll").count()
    assert len(links) == blocks


def test_the_contents_follow(page: Page) -> None:
    for name in ("loss", "results", "answer"):
        page.locator(f"#{name}").evaluate("one => one.scrollIntoView()")
        # Not `wait_for_function`, which the page's own policy forbids.
        link = page.locator(f'nav a[href="#{name}"][aria-current]')
        link.wait_for(state="attached", timeout=2000)
        assert page.locator("nav [aria-current]").count() == 1
        assert page.locator("nav").bounding_box()["y"] < 60  # type: ignore[index]
        box = page.locator("nav [aria-current]").bounding_box()
        assert box is not None and 0 <= box["x"] < 1280


def test_flames_open_and_one_of_them_can_be_made_as_broad_as_all(page: Page) -> None:
    tree = page.locator("details.tree").first
    assert page.locator(".flame").count() == 0
    tree.locator("summary").first.click()
    page.wait_for_selector(".flame button")
    flame = tree.locator(".flame")
    bars = flame.locator("button")
    whole = flame.bounding_box()
    assert whole is not None and bars.count() > 10
    boxes = bars.evaluate_all(
        "all => all.map(o => [parseFloat(o.style.left), parseFloat(o.style.width)])"
    )
    assert boxes[0] == [0, 100]
    assert all(left >= 0 and left + width <= 100.5 for left, width in boxes)
    inner = next(place for place, (_, width) in enumerate(boxes) if 10 < width < 60)
    name = bars.nth(inner).inner_text()
    bars.nth(inner).click()
    assert bars.first.inner_text() == name
    assert bars.first.evaluate("one => one.style.width") == "100%"
    assert bars.first.evaluate("one => one === document.activeElement")
    page.keyboard.press("Enter")  # and back
    assert bars.first.inner_text() == "a step"


def test_a_picture_is_enlarged_by_whole_pixels_and_closed_by_a_key(page: Page) -> None:
    picture = page.locator(".strips button.enlarge").first
    picture.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open] img")
    natural, shown = dialog.evaluate("one => [one.naturalWidth, one.width]")
    assert shown >= natural and shown % natural == 0
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert picture.evaluate("one => one === document.activeElement")


def test_without_scripts_all_of_it_can_be_read(browser: Browser, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address(folder, "report"))
    for section in page.locator("section").all():
        assert section.locator(".finding").is_visible()
    assert page.locator("#results table").first.is_visible()
    # What needs a script is not offered.
    assert not page.locator(".filter").first.is_visible()
    assert page.locator("button").count() == 0
    context.close()


def test_it_prints_on_several_pages_and_cuts_no_figure(page: Page) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4_WIDTH, "height": A4_HEIGHT})
    heights = page.locator("figure").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert heights and max(heights) < A4_HEIGHT
    assert page.evaluate("document.documentElement.scrollWidth") <= A4_WIDTH
    # Text of 7 points at least, and no table that would make all of the page smaller.
    sizes = page.locator("td:visible, th:visible").evaluate_all(
        "all => all.map(one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert len(sizes) > 100 and min(sizes) >= 7 * 96 / 72 - 0.01
    widths = page.locator("table:visible").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().right)"
    )
    assert max(widths) <= A4_WIDTH
    results = page.locator("#results .caption").first
    left_out = results.locator(".paper").inner_text()
    assert "first step, ms" in left_out
    heads = page.locator("#results table").first.locator("th:visible").all_inner_texts()
    assert "total, s" in heads and "first step, ms" not in heads
    made = page.pdf(
        format="A4", margin={"top": "1cm", "bottom": "1cm", "left": "1cm", "right": "1cm"}
    )
    assert len(re.findall(rb"/Type\s*/Page\b", made)) > 2
