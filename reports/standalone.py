"""A figure of a report as a file of its own, for a README or a paper."""

from __future__ import annotations

import re
from pathlib import Path

from bench.errors import UserError

STYLE = Path(__file__).parent / "templates" / "style.css"
# The variables that the page's figures are drawn with, in the light and in the dark.
_VARIABLES = re.compile(r":root \{.*?\n\}\n@media .*?\n\}\n", re.DOTALL)
_FONT = "svg { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }"


def standalone(html: str, figure: str) -> str:
    """SVG, from a page and the id of one of its figures: the last part of the link beside it.

    Raises UserError, naming those that there are, if there is no such figure.
    """
    figures = dict(re.findall(r'<figure id="([^"]+)"[^>]*>\s*(<svg class="wide".*?</svg>)', html,
                              re.DOTALL))  # fmt: skip
    if figure not in figures:
        raise UserError(f"FIGURE must be one of {', '.join(figures) or 'none'}, got {figure!r}")
    svg: str = figures[figure]
    variables = _VARIABLES.search(STYLE.read_text(encoding="utf-8"))
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    width = re.search(r"max-width: (\d+)px", svg)
    assert variables is not None and box is not None and width is not None
    height = int(width[1]) * float(box[2]) / float(box[1])
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width[1]}" height="{height:.0f}"'
    )
    body = svg.replace('<svg class="wide"', head, 1).replace(' href="#', ' xlink:href="#')
    start = body.index("</title>") + len("</title>")
    ground = '<rect width="100%" height="100%" fill="var(--page)"/>'
    return f"{body[:start]}<style>{variables.group()}{_FONT}</style>{ground}{body[start:]}\n"
