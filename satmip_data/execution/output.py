"""The output of a command, decided in one place: tables and advice for people, whole lines in a pipe, JSON, or the bare result.

A command says everything once, to an `Output`; which part of it appears follows from `--json`, `-q` and whether standard output is
a terminal. Warnings, errors, progress and advice go to standard error, so that another program can read what is printed.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from textwrap import wrap
from typing import Any, Literal, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
UNBOUNDED = 100_000
"""Columns of a pipe, in which nothing is wrapped."""
GAP = "  "
"""Space between two columns of a table."""


@dataclass(frozen=True, slots=True)
class Output:
    """The printer of a command.

    `text`, `table` and `next` are for people; `result` is what remains with `-q`, and `document` what is printed with `--json`.
    """

    mode: Literal["text", "json", "quiet"] = "text"

    @property
    def quiet(self) -> bool:
        """Whether progress is left out too."""
        return self.mode == "quiet"

    def text(self, line: str, **style: Any) -> None:
        """Print a line as it is, however long, in click's style (`fg`, `bold`); a terminal wraps it itself."""
        if self.mode == "text":
            click.echo(click.style(line, **style) if style else line)

    def warn(self, line: str) -> None:
        """Print a warning on standard error, also with `-q`."""
        click.secho(f"Warning: {line}", fg="yellow", err=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", result: bool = False) -> None:
        """Print a table. Its first column and its numbers are never wrapped; other cells are, on a terminal.

        Args:
            columns: headings; those that begin with "# " are of numbers, which stand to the right.
            rows: cells as text.
            result: whether it is what the command was asked for, and remains with `-q`.
        """
        if self.mode == "text" or (result and self.quiet):
            click.echo(aligned(columns, list(rows), title, shown_width()))

    def result(self, *lines: object) -> None:
        """Print what the command made, a path as a rule, alone on its line."""
        if self.mode != "json":
            for line in lines:
                click.echo(line)

    def document(self, value: Any) -> None:
        """Print the one JSON document of the command; NaN and infinity, which JSON has not, end it with an error."""
        if self.mode == "json":
            click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=_plain))

    def next(self, *commands: str) -> None:
        """Print commands that can follow, as they can be typed, on standard error: they are no part of what was found."""
        if self.mode == "text" and commands:
            click.echo(f"Next: {'   or   '.join(commands)}", err=True)


def shown_width() -> int:
    """Return the columns of the terminal; of a pipe, more than any line has."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNBOUNDED


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str, width: int) -> str:
    """Return a table as lines no wider than `width` where its words allow that: none is ever cut or divided."""
    heads = [name.removeprefix("# ") for name in columns]
    cells = list(zip(heads, *rows, strict=True))
    natural = [max(map(len, column)) for column in cells]
    whole = [number == 0 or name.startswith("# ") for number, name in enumerate(columns)]
    least = [
        max(map(len, [*head.split(), *(word for cell in column for word in ([cell] if kept else cell.split())), ""]))
        for (head, *column), kept in zip(cells, whole, strict=True)
    ]
    widths = _fitted(natural, least, width - len(GAP) * (len(columns) - 1))
    lines = [title] if title else []
    for row in (heads, *rows):
        parts = [wrap(cell, size, break_long_words=False, break_on_hyphens=False) for cell, size in zip(row, widths, strict=True)]
        for number in range(max(map(len, parts), default=0) or 1):
            words = [part[number] if number < len(part) else "" for part in parts]
            placed = (
                word.rjust(size) if name.startswith("# ") else word.ljust(size)
                for word, size, name in zip(words, widths, columns, strict=True)
            )
            lines.append(GAP.join(placed).rstrip())
    return "\n".join(lines)


def _fitted(natural: list[int], least: list[int], room: int) -> list[int]:
    """Return widths of columns whose sum is at most `room`, taken from the widest first, or as near as the least ones allow."""
    widths = list(natural)
    while sum(widths) > room:
        loose = [number for number, (size, smallest) in enumerate(zip(widths, least, strict=True)) if size > smallest]
        if not loose:
            break
        widths[max(loose, key=lambda number: widths[number])] -= 1
    return widths


def output_options(command: Command) -> Command:
    """`--json` and `-q`, which give a command its `output`. The decorator that stands next to the function."""

    @wraps(command)
    def run(*arguments: Any, as_json: bool, quiet: bool, **options: Any) -> Any:
        return command(*arguments, output=Output("json" if as_json else "quiet" if quiet else "text"), **options)

    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Print the result alone: no progress, no notes."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    ):
        run = option(run)
    return run  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    """Return what JSON can hold for a path, a time, a number of numpy's, or a set."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.item() if hasattr(value, "item") else str(value)
