"""Pages of the repository that lie outside of docs/: copied into docs/root, with their links as the site needs them.

README, CHANGELOG, CONTRIBUTING, SECURITY and the pages of benchmarks/ stay where readers of the repository look for them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parents[1]
ROOT = HERE.parent
COPIES = HERE / "root"
LISTING = Path("benchmarks/results/README.md")  # stands above the other pages of results
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def pages() -> list[Path]:
    """Return the pages that are copied, as paths from the root."""
    studies = [page for page in (ROOT / "benchmarks").rglob("*.md") if "tables" not in page.parts]
    return [Path(name) for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
        page.relative_to(ROOT) for page in studies
    )


def moved(text: str, old: Path, new: Path, copied: list[Path]) -> str:
    """Return a text whose relative links, right in the file `old`, are right in the file `new`.

    A link to a page that is copied leads to its copy.
    """

    def link(match: re.Match[str]) -> str:
        to = Path(os.path.normpath(old.parent / match[1]))
        if to.is_relative_to(ROOT) and to.relative_to(ROOT) in copied:
            to = COPIES / to.relative_to(ROOT)
        return f"]({os.path.relpath(to, new.parent)}{match[2] or ''})"

    return LINK.sub(link, text)


def copy(app: Sphinx) -> None:
    """Write the copies; one that is as it was keeps its time, so that its page is not read again."""
    copied = pages()
    for page in copied:
        new = COPIES / page
        text = moved((ROOT / page).read_text(), ROOT / page, new, copied)
        if page == LISTING:
            below = [str(p.relative_to(page.parent)) for p in copied if page.parent in p.parents and p != page]
            text += "\n```{toctree}\n:hidden:\n\n" + "\n".join(below) + "\n```\n"
        if not new.exists() or new.read_text() != text:
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(text)


def read(app: Sphinx, name: str, content: list[str]) -> None:
    """Let links from pages of docs/ to pages of the root lead to their copies."""
    page = HERE / f"{name}.md"
    if page.exists() and not page.is_relative_to(COPIES):
        content[0] = moved(content[0], page, page, pages())


def setup(app: Sphinx) -> dict[str, bool]:
    """Copy before pages are looked for, and mend links when one is read."""
    app.connect("builder-inited", copy)
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
