"""What the documentation site (`mkdocs.yml`) has beside the pages of this folder: README, CHANGELOG and results.

Links in all pages are those of the repository, so that they work there too. Here they become links of the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS, RESULTS = "docs/", "results/"
# Pages of the site that lie elsewhere in the repository.
ELSEWHERE = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md"}
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Adds the pages and tables that lie elsewhere, and a list of the results."""
    found = sorted((REPOSITORY / RESULTS).iterdir())
    pages = ELSEWHERE | {f"{RESULTS}{path.name}": f"{RESULTS}{path.name}" for path in found}
    for source, address in pages.items():
        files.append(File.generated(config, address, abs_src_path=str(REPOSITORY / source)))
    files.append(File.generated(config, f"{RESULTS}index.md", content=list_results(found)))
    return files


def list_results(found):
    """The page that lists the pages with results by their first headings, and all tables."""
    pages = [(path.name, path.read_text().partition("\n")[0].lstrip("# ")) for path in found if path.suffix == ".md"]
    tables = [(path.name, path.name) for path in found if path.suffix == ".csv"]
    lines = ["# Results", "What was measured, each with its commands, hardware and versions."]
    return "\n\n".join([*lines, *(f"- [{title}]({name})" for name, title in [*pages, *tables])])


def on_page_markdown(markdown, page, config, files):
    """Makes the links of a page those of the site."""
    address = page.file.src_uri
    sources = {site: source for source, site in ELSEWHERE.items()}
    source = sources.get(address) or (address if address.startswith(RESULTS) else DOCS + address)

    def change(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        there = find_address(target)
        return f"]({posixpath.relpath(there, posixpath.dirname(address) or '.')}{match[2] or ''})"

    return LINK.sub(change, markdown)


def find_address(target):
    """Where a file of the repository lies in the site."""
    if target == RESULTS.rstrip("/"):
        return f"{RESULTS}index.md"
    return ELSEWHERE.get(target) or target.removeprefix(DOCS)
