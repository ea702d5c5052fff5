"""One place decides what a command prints: for people, in a pipe, as JSON, or the bare result."""

import json
import math
from pathlib import Path

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from satmip_data.cli import commands
from satmip_data.execution.choices import Choice, complete_list
from satmip_data.execution.output import Output, aligned, output_options
from satmip_data.metadata.fields import ALIASES, FIELDS

WORDS = st.text("abcdefgh", min_size=1, max_size=12)
TABLES = st.integers(1, 5).flatmap(
    lambda width: st.tuples(
        st.lists(st.tuples(st.booleans(), WORDS), min_size=width, max_size=width),
        st.lists(st.lists(st.lists(WORDS, max_size=4).map(" ".join), min_size=width, max_size=width), max_size=5),
    )
)


@click.command()
@output_options
def command(output: Output) -> None:
    """Say everything once."""
    output.text("a note")
    output.table(("name", "# count"), [("a", "1")])
    output.warn("beware")
    output.document({"path": Path("out"), "count": np.int64(1), "names": frozenset({"b", "a"})})
    output.result("out/file")
    output.next("satmip-data fields", "satmip-data demo out/world")


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ([], ["a note", "name  count", "a         1", "out/file"]),
        (["-q"], ["out/file"]),
        (["--json"], None),
    ],
)
def test_the_mode_decides_what_is_printed(options: list[str], printed: list[str] | None) -> None:
    got = CliRunner().invoke(command, options)
    assert got.exit_code == 0, got.output
    assert "Warning: beware" in got.stderr
    assert ("Next: satmip-data fields   or   satmip-data demo out/world" in got.stderr) == (options == [])
    if printed is None:
        assert json.loads(got.stdout) == {"path": "out", "count": 1, "names": ["a", "b"]}
    else:
        assert got.stdout.splitlines() == printed


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Output("json").document({"loss": math.nan})


@given(TABLES, st.integers(1, 60))
def test_a_table_cuts_no_word_and_is_no_wider_than_it_must_be(
    table: tuple[list[tuple[bool, str]], list[list[str]]], width: int
) -> None:
    """Every word stands whole, in the order of its cell; a line passes the width only where words that stay whole need it."""
    heads, rows = table
    columns = [f"# {name}" if number else name for number, name in heads]
    text = aligned(columns, rows, "", width)
    assert sorted(text.split()) == sorted(
        word for row in ([name for _, name in heads], *rows) for cell in row for word in cell.split()
    )
    whole = [i == 0 or number for i, (number, _) in enumerate(heads)]
    least = [
        max(len(word) for word in [heads[i][1], *(word for row in rows for word in ([row[i]] if whole[i] else row[i].split()))])
        for i in range(len(heads))
    ]
    assert max(map(len, text.splitlines())) <= max(width, sum(least) + 2 * (len(heads) - 1))


def test_names_and_numbers_stay_on_one_line() -> None:
    rows = [("a name of words", "1 234", "some words that wrap")]
    lines = aligned(("name", "# n", "meaning"), rows, "", 30).splitlines()
    assert lines[1].startswith("a name of words  1 234  ")
    assert len(lines) > 2


def test_rejects_are_listed_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("image,split\n" + "".join(f"lost{number}.png,train\n" for number in range(5)))
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    with (tmp_path / "a.csv").open("a") as table:
        table.write("a.png,train\n")
    run = CliRunner()
    built = run.invoke(commands.main, ["build", "--source", "table", "a.csv", "out", "--size", "16", "--workers", "1"])
    assert built.exit_code == 0, built.output
    assert [name in built.stdout for name in ("lost0.png", "lost2.png", "lost3.png")] == [True, True, False]
    assert "All rejects: satmip-data rejects out" in built.stdout
    listed = run.invoke(commands.main, ["rejects", "out", "--examples", "2"])
    assert listed.exit_code == 0
    assert [f"lost{number}.png" in listed.stdout for number in range(3)] == [True, True, False]
    found = json.loads(run.invoke(commands.main, ["rejects", "out", "--json"]).stdout)
    (reason,) = found["reasons"].values()
    assert (found["rejects"], reason["count"], len(reason["examples"])) == (5, 5, 3)
    wrong = run.invoke(commands.main, ["rejects", "out", "--reason", "image_unreadible"])
    assert wrong.exit_code == 2
    assert '"image_unreadable"' in wrong.stderr
    for name in (["inspect", "out"], ["validate", "out", "--workers", "1"], ["fields"]):
        json.loads(run.invoke(commands.main, [*name, "--json"]).stdout)


def completions(*words: str, incomplete: str = "") -> list[str]:
    """What a shell would offer after these words."""
    found = ShellComplete(commands.main, {}, "satmip-data", "_SATMIP_DATA_COMPLETE").get_completions([*words], incomplete)
    return [item.value for item in found]


def test_a_shell_completes_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(completions("caption", "--fields")) == {field.name for field in FIELDS} | ALIASES.keys()
    assert completions("caption", "--fields", incomplete="gsd,cloud_c") == ["gsd,cloud_cover"]
    assert "bigearthnet" in completions("build", "--source", incomplete="big")
    monkeypatch.chdir(tmp_path)
    assert completions("inspect", "--split", incomplete="v") == ["val"]
    (tmp_path / "out/shards").mkdir(parents=True)
    (tmp_path / "out/shards/dataset.json").write_text('{"splits": {"north": {}, "south": {}}}')
    assert completions("inspect", "--split") == ["north", "south"]


def test_a_name_that_was_taken_is_not_offered_again() -> None:
    assert [item.value for item in complete_list(["gsd", "time"], "gsd,")] == ["gsd,time"]


def test_an_unknown_choice_is_told_with_the_nearest() -> None:
    with pytest.raises(click.BadParameter, match=r'Unknown colour "gren".*"green"'):
        Choice(["red", "green"], "colour").convert("gren", None, None)
