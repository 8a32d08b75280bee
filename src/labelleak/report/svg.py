"""Turn a matplotlib figure into an inline SVG that takes its colours and font from the page."""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from typing import TYPE_CHECKING

from labelleak.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# No line of a figure has this colour by design; the page's text colour takes its place.
INK = "#010203"


def plain(text: str) -> str:
    """Return a name for a figure: no formula, nothing that SVG cannot hold.

    >>> print(plain("cnn $x^2$"))
    cnn \\$x^2\\$
    """
    return printable(text).replace("$", "\\$")


def embed(figure: Figure, *, prefix: str, title: str) -> str:
    """Write a figure as an SVG element to stand inside a page.

    The element scales with its column, names itself to screen readers, shares no id with
    another figure and refers to nothing outside; the same figure gives the same bytes.

    Args:
        figure: a figure that was drawn with `INK` for text and axes.
        prefix: start of every id.
        title: what the figure shows, in words.
    """
    return inline(write(figure), prefix=prefix, title=title)


def write(figure: Figure) -> str:
    """Write a figure as matplotlib does, without the day."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name's letter that no font has
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return file.getvalue()


def inline(raw: str, *, prefix: str, title: str) -> str:
    """Turn what `write` gives into an element of a page; see `embed`."""
    body = re.sub(r"<metadata>.*?</metadata>", "", raw[raw.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<svg[^>]*>", "", body, count=1)
    body = body.replace("xlink:href=", "href=").replace(INK, "currentColor")
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'href="#', f'href="#{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-")
    # Releases of matplotlib write the font as one property or as several.
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    head = (
        f'<svg class="figure" role="img" aria-labelledby="{prefix}-title" '
        f'viewBox="{_view_box(raw)}">\n<title id="{prefix}-title">{escape(title)}</title>'
    )
    return head + body.strip()


def _view_box(raw: str) -> str:
    found = re.search(r'viewBox="([^"]+)"', raw)
    assert found is not None  # matplotlib always writes one
    return found.group(1)
