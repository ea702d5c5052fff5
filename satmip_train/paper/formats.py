"""A filled table of the paper as text, Markdown, CSV or LaTeX, and the files that its cells came from. Opens no file."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from satmip_data.names import counted
from satmip_train.paper.fill import Cell, Filled
from satmip_train.paper.layout import ColumnKind, Number

MISSING = "\N{EN DASH}"
OURS, PAPER = "ours", "paper"
_DECIMALS: dict[ColumnKind, str] = {
    "time_ratio": ".2f",
    "memory_ratio": ".2f",
    "hours": ".3g",
    "device_hours": ".3g",
    "energy_kwh": ".3g",
}
_SIGNED = ("difference", "mean_gain")
_WIDTH = 1000
"""Characters: more than any table has, so that no number is cut off."""


@dataclass(frozen=True)
class Line:
    """One line of a table as text: of ours or of the paper's."""

    labels: tuple[str, ...]
    """Of the row; empty in the paper's line, which stands below ours."""
    whose: str
    cells: tuple[str, ...]


def lines(table: Filled) -> list[Line]:
    """Return two lines a row, ours and the paper's."""
    found = []
    for number, row in enumerate(table.layout.rows):
        columns = table.layout.columns
        ours = tuple(_text(table.cells.get((number, column.id)), column.kind) for column in columns)
        paper = tuple(_text(row.published.get(column.id), column.kind) for column in columns)
        found += [Line(row.labels, OURS, ours), Line(("",) * len(row.labels), PAPER, paper)]
    return found


def _text(value: Cell | Number | None, kind: ColumnKind) -> str:
    if value is None:
        return MISSING
    mean = f"{value.mean:{'+' if kind in _SIGNED else ''}{_DECIMALS.get(kind, '.1f')}}"
    if isinstance(value, Cell) and value.note:
        mean += "*"
    return mean if value.std is None else f"{mean} ± {_spread(value, kind)}"


def _spread(value: Cell | Number, kind: ColumnKind) -> str:
    """Return the deviation as exactly as the paper prints it, which is once with two digits."""
    if isinstance(value, Number) and kind not in _DECIMALS:
        return f"{value.std:.2f}".removesuffix("0")
    return f"{value.std:{_DECIMALS.get(kind, '.1f').replace('3g', '2g')}}"


def notes(table: Filled) -> list[str]:
    """Return what must be known to read the table."""
    layout = table.layout
    sources = dict.fromkeys(number.source for row in layout.rows for number in row.published.values())
    found = [f"{MISSING}: missing."]
    if sources:
        found.append(f"The paper's numbers: {'; '.join(sources)}.")
    if any(cell.std is not None for cell in table.cells.values()):
        found.append(f"±: standard deviation over seeds (n - 1); {_seeds(table)}.")
    if any(cell.note for cell in table.cells.values()):
        found.append(f"*: {'; '.join(dict.fromkeys(cell.note for cell in table.cells.values() if cell.note))}.")
    return [*found, *layout.notes, *table.notes]


def _seeds(table: Filled) -> str:
    counts = sorted({len(cell.seeds) for cell in table.cells.values()})
    return f"{counted(counts[0], 'seed')} a cell" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds a cell"


def title(table: Filled) -> str:
    """Return the heading of the table."""
    return f"{table.layout.name}. {table.layout.title}"


def header(table: Filled) -> list[str]:
    """Return the headings of the columns."""
    return [*table.layout.labels, "", *(column.title for column in table.layout.columns)]


def as_text(table: Filled) -> str:
    """Return the table for a terminal."""
    shown = RichTable(box=box.SIMPLE_HEAD)
    for number, name in enumerate(header(table)):
        shown.add_column(escape(name), justify="left" if number <= len(table.layout.labels) else "right")
    for line in lines(table):
        shown.add_row(*map(escape, (*line.labels, line.whose, *line.cells)), end_section=line.whose == PAPER)
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
    console.print(title(table), markup=False, highlight=False, soft_wrap=True)
    console.print(shown)
    for note in notes(table):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def as_markdown(table: Filled) -> str:
    """Return the table in GitHub's Markdown."""
    names = header(table)
    align = ["---" if number <= len(table.layout.labels) else "---:" for number in range(len(names))]
    rows = [(*line.labels, line.whose, *line.cells) for line in lines(table)]
    grid = [f"| {' | '.join(cells)} |" for cells in (names, align, *rows)]
    return "\n".join([f"**{title(table)}**", "", *grid, "", *(f"- {note}" for note in notes(table))]) + "\n"


def as_csv(table: Filled) -> str:
    """Return one line a cell, also of the missing ones: our mean, deviation, seeds and files beside the paper's."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    labels = [name or "label" for name in table.layout.labels]
    ours_names, paper_names = ["mean", "std", "seeds", "note", "files"], ["paper_mean", "paper_std", "paper_source"]
    writer.writerow(["table", *labels, "column", *ours_names, *paper_names])
    for number, row in enumerate(table.layout.rows):
        for column in table.layout.columns:
            cell, paper = table.cells.get((number, column.id)), row.published.get(column.id)
            seeds = () if cell is None else cell.seeds
            ours = ["", "", "", "", ""] if cell is None else [
                f"{cell.mean:.6g}", "" if cell.std is None else f"{cell.std:.6g}", " ".join(map(str, seeds)), cell.note,
                ";".join(cell.files),
            ]  # fmt: skip
            theirs = ["", "", ""] if paper is None else [paper.mean, "" if paper.std is None else paper.std, paper.source]
            writer.writerow([table.layout.id, *row.labels, column.title, *ours, *theirs])
    return stream.getvalue()


def as_latex(table: Filled) -> str:
    """Return the table for LaTeX with the package booktabs."""
    names = header(table)
    align = "l" * (len(table.layout.labels) + 1) + "r" * len(table.layout.columns)
    body = []
    for line in lines(table):
        end = r"\\" if line.whose == OURS else r"\\[2pt]"
        body.append(f"{' & '.join(_latex(cell) for cell in (*line.labels, line.whose, *line.cells))} {end}")
    top = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", f"{' & '.join(map(_latex, names))} \\\\", r"\midrule"]
    comments = [f"% {note}" for note in (title(table), *notes(table))]
    return "\n".join([*comments, *top, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


_LATEX = {
    "±": r"$\pm$",
    MISSING: "--",
    "✓": r"$\checkmark$",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


FORMATS: dict[str, Callable[[Filled], str]] = {"text": as_text, "markdown": as_markdown, "csv": as_csv, "latex": as_latex}
"""By the name that `--format` gives them."""


def trace(table: Filled) -> Iterable[str]:
    """Give for every cell of ours the files that filled it, and for every missing one that it is missing."""
    for number, row in enumerate(table.layout.rows):
        name = ", ".join(filter(None, row.labels)) or "-"
        for column in table.layout.columns:
            cell = table.cells.get((number, column.id))
            where = f"{table.layout.name} | {name} | {column.title}"
            if cell is None:
                yield f"{where}: missing"
                continue
            yield f"{where}: {_text(cell, column.kind)}, {_seed_text(cell.seeds)}"
            yield from (f"    {file}" for file in cell.files)


def _seed_text(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
