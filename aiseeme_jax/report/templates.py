"""The templates of the pages, which lie beside this file."""

import functools
from pathlib import Path

import jinja2

REPORT = "report.html"


@functools.cache
def load_template(name: str) -> jinja2.Template:
    """A template whose values are escaped, and in which an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template(name)
