"""Show the doctests of a docstring as code; the site's reader of docstrings takes them for text."""

import re
from typing import Any

import griffe

_PARAGRAPH = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


class DoctestBlocks(griffe.Extension):
    """Put a fence around each paragraph that starts with a prompt."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of what was found, if it has one."""
        if obj.docstring:
            obj.docstring.value = _PARAGRAPH.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
