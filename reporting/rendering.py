"""Templates filled for pages, and the addresses that stand on them.

page = render("run.html", title="7 images", ...)

What a page shows may be a stranger's: every text is escaped, what stands in a style or a size is a
number, and the page's policy lets a browser load nothing but images, its one script and its style.
"""

import base64
import hashlib
import math
import os
from pathlib import Path
from urllib.parse import quote

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: object) -> str:
    """Fill a template of templates/; every text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["number"] = number
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return jinja.get_template(template).render(
        policy=policy(style, script),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        **values,
    )


def policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy of a page with this style and script.

    Images come from beside the page or are in it; the sizes of bars are styles of their elements.
    """
    return "; ".join(
        [
            "default-src 'none'",
            "img-src 'self' file: data:",
            f"script-src '{content_hash(script)}'",
            "style-src 'unsafe-inline'",  # for browsers that do not know the next two
            f"style-src-elem '{content_hash(style)}'",
            "style-src-attr 'unsafe-inline'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def content_hash(text: str) -> str:
    """Return the hash of a script or a style as a policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def number(value: object) -> float | int:
    """Return a number for a style or a size. Raises TypeError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no number")
    return value


def link(file: str) -> str:
    """Return a relative path as an address that leads to no other place."""
    return "./" + quote(os.fsencode(file))


def link_to(file: Path, folder: Path) -> str:
    """Return the address of a file on a page that stands in another folder."""
    return link(Path(os.path.relpath(file, folder)).as_posix())
