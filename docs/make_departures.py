"""Collect the departures from the paper that code marks with `NOTE[DIFF]`: python docs/make_departures.py.

The site's build calls it, so a mark cannot be forgotten.
"""

import ast
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("satmip_data", "satmip_train")
MARK = re.compile(r"NOTE\[DIFF\]:?\s*")
# A note ends at an empty line, at the next mark, or where a section of a docstring begins.
END = re.compile(r"\n[ \t]*\n|NOTE\[DIFF\]|\n[ \t]*\w+: |\n[ \t]*(?:Args|Shape|Raises|Returns):")


@dataclass(frozen=True)
class Departure:
    """One mark: where it stands, and what it says."""

    path: str
    line: int
    text: str


def departures(root: Path = ROOT) -> list[Departure]:
    """Return every mark of the packages below `root`, by file and line."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    marked = [path for path in paths if "NOTE[DIFF]" in path.read_text(encoding="utf-8")]
    return [Departure(str(path.relative_to(root)), line, text) for path in marked for line, text in notes(path)]


def notes(path: Path) -> list[tuple[int, str]]:
    """Return line and text of the marks of one file, from docstrings and comments."""
    found = []
    for first, text in (*_docstrings(path), *_comments(path)):
        for mark in MARK.finditer(text):
            body = text[mark.end() :]
            end = END.search(body)
            words = " ".join(body[: end.start() if end else None].split())
            found.append((first + text.count("\n", 0, mark.start()), words[:1].upper() + words[1:]))
    return sorted(found)


def _docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    """Comments that stand on lines of their own, those of adjacent lines together."""
    with path.open("rb") as file:
        comments = [t for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT and t.line.lstrip().startswith("#")]
    lines = [(comment.start[0], comment.string.lstrip("# ")) for comment in comments]
    block: list[str] = []
    for index, (line, text) in enumerate(lines):
        block.append(text)
        if index + 1 == len(lines) or lines[index + 1][0] != line + 1:
            yield line - len(block) + 1, "\n".join(block)
            block = []


def listing() -> str:
    """Return the departures as Markdown: the name of each file, and a list of what it marks."""
    by_file = groupby(departures(), key=lambda departure: departure.path)
    return "\n\n".join(f"`{path}`\n\n" + "\n".join(f"* {departure.text}" for departure in marks) for path, marks in by_file)


if __name__ == "__main__":
    print(listing())
