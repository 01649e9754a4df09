"""The templates of the pages, which lie beside this file."""

import functools
from pathlib import Path

import jinja2

from aiseeme_jax.report import marks

REPORT = "report.html"


@functools.cache
def load_template(name: str) -> jinja2.Template:
    """A template whose values are escaped, and in which an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # What the style needs for legends.
    environment.globals |= {"marks": marks.MARKS, "dashes": marks.DASHES, "clip_key": marks.clip_key}
    return environment.get_template(name)
