"""Pages from templates: all text in them is escaped, and a script runs by its digest alone."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def environment(folder: Path) -> Environment:
    """Of the templates in a folder."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script(path: Path) -> dict[str, str]:
    """`script` as it stands in a page, and `script_digest`, by which its policy allows it."""
    content = path.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return {"script": Markup(content), "script_digest": digest}
