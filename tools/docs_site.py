"""A hook of mkdocs: the repository's pages as pages of a site, with links that lead to the same places.

README.md is the first page of the site; docs/index.md lists the pages for readers of the repository only.
A link to a file that the site does not have leads to the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/sse-hub/sse-hub/blob/main/"

OUTSIDE = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "fanout.svg": "bench/results/fanout.svg",
    "growth.svg": "bench/results/growth.svg",
}
"""Files of the site that lie elsewhere in the repository."""


def source_of(page: str) -> str:
    """The file of the repository, as a path in it, that a page of the site is made from."""
    return OUTSIDE.get(page, f"docs/{page}")


def page_of(source: str) -> str | None:
    """The page or picture of the site that a file of the repository becomes; None if the site has none."""
    if source == "docs/index.md":
        return "index.md"
    for page, outside in OUTSIDE.items():
        if outside == source:
            return page
    name = source.removeprefix("docs/")
    return name if name != source and (ROOT / source).is_file() else None


def links(markdown: str, page: str) -> str:
    """The text of a page with its links to files as the site has them."""
    folder = posixpath.dirname(source_of(page))

    def rewritten(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        target = posixpath.normpath(posixpath.join(folder, path))
        return f"]({page_of(target) or REPOSITORY + target}{mark}{anchor})"

    # Programs in fenced blocks have no links.
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", rewritten, parts[index])
    return "".join(parts)


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that lie outside docs/; its own index is for readers of the repository."""
    from mkdocs.structure.files import File

    listed = files.get_file_from_path("index.md")
    if listed is not None:
        files.remove(listed)
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Give a page the site's links."""
    return links(markdown, page.file.src_uri)


def on_page_content(html: str, **_: Any) -> str:
    """Mark options such as `--reload`, which a browser would break after their hyphens."""
    return re.sub(r"<code>(?=--[\w-]+</code>)", '<code class="option">', html)
