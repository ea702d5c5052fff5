"""Tables of the paper as text, Markdown, CSV and LaTeX: two made ones, whole."""

from satmip_train.paper.fill import Cell, Filled
from satmip_train.paper.formats import FORMATS, MISSING, notes, trace
from satmip_train.paper.layout import Column, ColumnKind, Number, Row, TableLayout

KINDS: tuple[ColumnKind, ...] = (
    "score", "difference", "mean_gain", "time_ratio", "memory_ratio", "hours", "device_hours", "energy_kwh"
)  # fmt: skip
TITLES = [f"[{kind[:4]}]" for kind in KINDS]


def layout(labels: tuple[str, ...], rows: tuple[Row, ...], kinds: tuple[ColumnKind, ...] = KINDS) -> TableLayout:
    columns = tuple(Column(id=kind, title=f"[{kind[:4]}]", kind=kind, cell={}, of=(), sets=()) for kind in kinds)
    return TableLayout("9", "Made [up]", labels, columns, rows, {}, None, ("Of the layout.",))


def row(labels: tuple[str, ...], **published: Number) -> Row:
    return Row(labels=labels, recipe=None, external=None, control=None, cell={}, gain_over=None, published=published)


def cell(mean: float, std: float | None = None, seeds: tuple[int, ...] = (0,), note: str = "") -> Cell:
    return Cell(mean, std, seeds, ("runs/a", "runs/b"), note)


WHOLE = Filled(
    layout(
        ("Model", ""),
        (
            row(
                ("[a]", "λ ✓ # & Δ_%"),
                score=Number(61.25, 0.15, "Table 9"), difference=Number(1.0, 0.2, "Table 9"),
                mean_gain=Number(-2.0, None, "poster"), time_ratio=Number(1.456, 0.1, "poster"),
            ),
            row(("B", "")),
        ),
    ),
    {
        (0, "score"): cell(61.234, 0.0, (0, 1), "k = 5"),
        (0, "difference"): cell(1.26, 0.46, (0, 1)),
        (0, "mean_gain"): cell(2.34),
        (0, "time_ratio"): cell(1.456, 0.123, (0, 1)),
        (0, "memory_ratio"): cell(1.456),
        (0, "hours"): cell(12.345, 1.234, (0, 1, 3), "k = 5"),
        (0, "device_hours"): cell(123.45),
        (1, "energy_kwh"): cell(0.12345, note="short"),
    },
    ("Of what fills it.",),
)  # fmt: skip
NOTES = [
    f"{MISSING}: missing.",
    "The paper's numbers: Table 9; poster.",
    "±: standard deviation over seeds (n - 1); 1 to 3 seeds a cell.",
    "*: k = 5; short.",
    "Of the layout.",
    "Of what fills it.",
]
CELLS = {
    "A ours": ["61.2* ± 0.0", "+1.3 ± 0.5", "+2.3", "1.46 ± 0.12", "1.46", "12.3* ± 1.2", "123", MISSING],
    "A paper": ["61.2 ± 0.15", "+1.0 ± 0.2", "-2.0", "1.46 ± 0.10", MISSING, MISSING, MISSING, MISSING],
    "B ours": [MISSING, MISSING, MISSING, MISSING, MISSING, MISSING, MISSING, "0.123*"],
    "B paper": [MISSING] * 8,
}


def test_a_table_in_markdown() -> None:
    grid = [
        ["Model", "", "", *TITLES],
        ["---"] * 3 + ["---:"] * 8,
        ["[a]", "λ ✓ # & Δ_%", "ours", *CELLS["A ours"]],
        ["", "", "paper", *CELLS["A paper"]],
        ["B", "", "ours", *CELLS["B ours"]],
        ["", "", "paper", *CELLS["B paper"]],
    ]
    expected = ["**Table 9. Made [up]**", "", *(f"| {' | '.join(cells)} |" for cells in grid), "", *(f"- {note}" for note in NOTES)]
    assert FORMATS["markdown"](WHOLE) == "\n".join(expected) + "\n"


TEXT = """\
Table 9. Made [up]

  Model                              [scor]       [diff]   [mean]        [time]   [memo]        [hour]   [devi]   [ener]
 ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
  [a]     λ ✓ # & Δ_%   ours    61.2* ± 0.0   +1.3 ± 0.5     +2.3   1.46 ± 0.12     1.46   12.3* ± 1.2      123        ?
                        paper   61.2 ± 0.15   +1.0 ± 0.2     -2.0   1.46 ± 0.10        ?             ?        ?        ?

  B                     ours              ?            ?        ?             ?        ?             ?        ?   0.123*
                        paper             ?            ?        ?             ?        ?             ?        ?        ?

"""


def test_a_table_as_text() -> None:
    assert FORMATS["text"](WHOLE) == TEXT.replace("?", MISSING) + "\n".join(NOTES) + "\n"


def test_a_table_in_csv() -> None:
    table, a, b = "9", "[a],λ ✓ # & Δ_%", "B,"
    files = "runs/a;runs/b"
    none = [",,,,"] * 8
    ours = [
        f"61.234,0,0 1,k = 5,{files}", f"1.26,0.46,0 1,,{files}", f"2.34,,0,,{files}", f"1.456,0.123,0 1,,{files}",
        f"1.456,,0,,{files}", f"12.345,1.234,0 1 3,k = 5,{files}", f"123.45,,0,,{files}", ",,,,",
    ]  # fmt: skip
    papers = ["61.25,0.15,Table 9", "1.0,0.2,Table 9", "-2.0,,poster", "1.456,0.1,poster", *[",,"] * 4]
    expected = ["table,Model,label,column,mean,std,seeds,note,files,paper_mean,paper_std,paper_source"]
    expected += [f"{table},{a},{title},{one},{two}" for title, one, two in zip(TITLES, ours, papers, strict=True)]
    none[-1] = f"0.12345,,0,short,{files}"
    expected += [f"{table},{b},{title},{one},,," for title, one in zip(TITLES, none, strict=True)]
    assert FORMATS["csv"](WHOLE) == "\n".join(expected) + "\n"


def test_a_table_in_latex() -> None:
    def body(cells: list[str]) -> str:
        return " & ".join(cells).replace("±", r"$\pm$").replace(MISSING, "--")

    names = " & ".join(("Model", "", "", *TITLES)).replace("_", r"\_")
    expected = [
        "% Table 9. Made [up]",
        *(f"% {note}" for note in NOTES),
        r"\begin{tabular}{lllrrrrrrrr}",
        r"\toprule",
        rf"{names} \\",
        r"\midrule",
        rf"[a] & $\lambda$ $\checkmark$ \# \& $\Delta$\_\% & ours & {body(CELLS['A ours'])} \\",
        rf" &  & paper & {body(CELLS['A paper'])} \\[2pt]",
        rf"B &  & ours & {body(CELLS['B ours'])} \\",
        rf" &  & paper & {body(CELLS['B paper'])} \\[2pt]",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert FORMATS["latex"](WHOLE) == "\n".join(expected) + "\n"


def test_a_trace_of_all_cells() -> None:
    found = list(trace(WHOLE))
    assert len(found) == 16 + 2 * 8
    assert found[:3] == ["Table 9 | [a], λ ✓ # & Δ_% | [scor]: 61.2* ± 0.0, seeds 0, 1", "    runs/a", "    runs/b"]
    assert "Table 9 | [a], λ ✓ # & Δ_% | [mean]: +2.3, seed 0" in found
    assert found[-3:] == ["Table 9 | B | [ener]: 0.123*, seed 0", "    runs/a", "    runs/b"]
    unnamed = Filled(layout(("",), (row(("",)),), ("score",)), {}, ())
    assert list(trace(unnamed)) == ["Table 9 | - | [scor]: missing"]


def test_a_table_without_numbers_of_the_paper_or_with_as_many_seeds_everywhere_says_no_more() -> None:
    of = layout(("Model",), (row(("A",)),), ("score", "hours"))
    assert notes(Filled(of, {}, ())) == [f"{MISSING}: missing.", "Of the layout."]
    alike = {(0, "score"): cell(1.0, 0.5, (0, 1)), (0, "hours"): cell(1.0, None, (0, 1))}
    assert notes(Filled(of, alike, ()))[1:-1] == ["±: standard deviation over seeds (n - 1); 2 seeds a cell."]
