"""The templates and the one style sheet of every page and card that either package writes."""

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Grid:
    """A table of a page."""

    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    """Cells; None is an empty one."""
    marked: frozenset[int] = frozenset()
    """Numbers of the rows that stand out."""
    text: bool = False
    """Whether cells are words rather than numbers, which are aligned at their ends."""

    @classmethod
    def of(cls, header: Iterable[str], rows: Iterable[Iterable[Any]], marked: Iterable[int] = (), *, text: bool = False) -> "Grid":
        """Return the grid of any iterables."""
        return cls(tuple(header), tuple(tuple(row) for row in rows), frozenset(marked), text)


def render(template: str, /, **values: Any) -> str:
    """Return a page (`.html`), whose values are escaped, or a card (`.md`), whose template escapes them by the filter `cell`."""
    return _environment().get_template(template).render(**values)


def vendored(name: str) -> str:
    """Return a file of another project that pages hold a copy of; see `vendor/NOTICE`."""
    return files("satmip_data.pages").joinpath("vendor", name).read_text(encoding="utf-8")


def script(name: str) -> str:
    """Return a script of ours, to stand in a page."""
    return files("satmip_data.pages").joinpath(name).read_text(encoding="utf-8")


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """Return a file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> "Environment":
    # Imported late: who writes no page needs no templates.
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("satmip_data.pages", "."),
        autoescape=select_autoescape(("html",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "plain": _plain,
        "cell": _cell,
        "code": _code,
        "anchor": lambda text: "-".join(str(text).lower().split()),
    }
    return environment


def _anchor(text: str) -> str:
    """Return what a heading is called in an address of the page."""
    return "-".join(re.findall(r"\w+", text.lower()))


def _plain(value: Any) -> str:
    """Return a value in words: nothing, a list with commas, the rest as JSON has it, which is how settings are typed."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return "" if value is None else json.dumps(value) if isinstance(value, bool | dict) else str(value)


def _cell(value: Any) -> str:
    """Return a value as words of a Markdown table: on one line, without a bar that ends its cell and without tags."""
    return _code(value).replace("<", "&lt;")


def _code(value: Any) -> str:
    """Return a value to stand between backticks in a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
