"""BibTeX entries as a reader of a page wants them: authors, title, venue, year, link."""

from __future__ import annotations

import re
import unicodedata

ACCENTS = {'"': "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", "=": "\u0304", ".": "\u0307",
           "c": "\u0327", "v": "\u030c", "u": "\u0306", "H": "\u030b", "k": "\u0328", "r": "\u030a"}  # fmt: skip
LETTERS = {"o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ss": "ß", "ae": "æ", "aa": "å", "i": "i", "j": "j", "&": "&"}


def plain(tex: str) -> str:
    """Return a text of BibTeX without its commands; formulas stay between dollars."""
    tex = re.sub(
        r"\\([\"'`^~=.]|[cvuHkr](?![a-zA-Z]))\s*\{?\\?([a-zA-Z])\}?",
        lambda m: unicodedata.normalize("NFC", m[2] + ACCENTS[m[1]]),
        tex,
    )
    tex = re.sub(r"\\(ss|ae|aa|[oOlLij&])(?![a-zA-Z])\s?", lambda m: LETTERS[m[1]], tex)
    kept = re.split(r"(\$[^$]*\$)", tex)
    return " ".join("".join(p if p[:1] == "$" else re.sub(r"[{}]", "", p) for p in kept).replace("--", "–").split())


def fields(entry: str) -> dict[str, str]:
    """Return the fields of one entry, as BibTeX has them, by their names in small letters."""
    found: dict[str, str] = {}
    for match in re.finditer(r"(\w+)\s*=\s*([{\"])", entry):
        depth, start = 0, match.end()
        for at in range(start, len(entry)):
            char = entry[at]
            if char == ("}" if match[2] == "{" else '"') and depth == 0:
                found.setdefault(match[1].lower(), entry[start:at])
                break
            depth += (char == "{") - (char == "}")
    return found


def key(entry: str) -> str:
    """Return the citation key of an entry."""
    return re.match(r"\s*@\w+\{([^,\s]+)", entry)[1]


def citation(entry: str) -> str:
    """Return an entry as one line of Markdown."""
    given = {name: plain(value) for name, value in fields(entry).items()}
    authors = []
    for author in given.get("author", "").split(" and "):
        family, _, first = author.partition(", ")
        authors.append("others" if family == "others" else f"{first} {family}".strip())
    if len(authors) > 6:
        authors = [*authors[:5], "others"]
    who = ", ".join(authors[:-1]) + (" and " if authors[1:] else "") + authors[-1]
    where = next((given[name] for name in ("booktitle", "journal", "school", "howpublished") if name in given), "")
    title = given.get("title", "").rstrip(".")
    if url := given.get("url") or ("doi" in given and f"https://doi.org/{given['doi']}"):
        title = f"[{title}]({url})"
    else:
        title = f"*{title}*"
    return f"{who}. {title}. {where + ', ' if where else ''}{given.get('year', '')}."
