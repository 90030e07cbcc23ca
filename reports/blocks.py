"""What a section is made of. The template draws each kind; all text in them is escaped there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from reports.figures.pictures import Strip

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Cell:
    """What is shown, what the column is sorted by, and a page beside this one that it leads to.

    svg: stands before the text
    """

    text: str
    value: Value
    href: str = ""
    svg: Markup | None = None

    @property
    def numeric(self) -> bool:
        return isinstance(self.value, int | float) or (self.value is None and self.text == "–")


@dataclass(frozen=True)
class Table:
    """columns: names with their units

    stacked: of long rows, each a block of its own where the screen is narrow
    screen_only: columns that paper has no room for
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    filterable: bool = False
    stacked: bool = False
    screen_only: Sequence[str] = ()
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Figure:
    """svg: in two widths; data: the values behind it; broad: leaves no room beside it"""

    svg: Markup
    caption: str
    data: Table | None = None
    broad: bool = False
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Pictures:
    """Strips of pictures under one caption."""

    strips: Sequence[Strip]
    caption: str
    kind: str = field(default="pictures", init=False)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    heading: str = ""
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Note:
    """Text that must not be overlooked."""

    text: str
    kind: str = field(default="note", init=False)


@dataclass(frozen=True)
class Code:
    """Preformatted text; under a summary it is folded."""

    text: str
    summary: str = ""
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Listing:
    """A list of lines."""

    items: Sequence[str]
    heading: str = ""
    kind: str = field(default="listing", init=False)


@dataclass(frozen=True)
class Branch:
    """A share of a whole, and the shares that it is made of."""

    text: str
    share: float
    branches: Sequence[Branch] = ()


@dataclass(frozen=True)
class Tree:
    """Folded under its heading, and within it each branch under its own."""

    heading: str
    branches: Sequence[Branch]
    kind: str = field(default="tree", init=False)


Block = Table | Figure | Pictures | Text | Note | Code | Listing | Tree


@dataclass(frozen=True)
class Section:
    """finding: one computed sentence that says what was found, or what is missing.

    lead: what has to be known before the finding
    """

    id: str
    title: str
    finding: str
    blocks: Sequence[Block] = ()
    lead: str = ""


def raw(value: Value) -> Cell:
    """A value as it is stored, to six digits."""
    if value is None:
        return Cell("–", None)
    return Cell(f"{value:.6g}" if isinstance(value, float) else str(value), value)


def raw_table(columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> Table:
    """The values behind a figure."""
    return Table(columns, [[raw(value) for value in row] for row in rows])
