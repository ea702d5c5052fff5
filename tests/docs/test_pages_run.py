"""The tutorial and the how-tos as a newcomer types them, on a world of 24 places."""

import re
import shlex
from pathlib import Path

import click
import pytest
from helpers.doc_blocks import COMMANDS, ROOT, blocks, command_lines, run_blocks

import satmip_data
import satmip_train

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SMALLER = {
    "satmip-data demo": "--places 24 --workers 1",
    "satmip-data build": "--workers 1",
    "satmip-data validate": "--workers 1",
    "satmip-train": "--max-steps 2 --batch-size 8 --workers 0 --view-size 32",
    "satmip-eval": "--workers 0",
    "satmip-eval report": "--random-seeds 0",
    "satmip-eval knn": "--random-seeds 0",
}


def test_the_tutorial_and_the_page_of_vectors_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(ROOT / "docs/tutorial.md", SMALLER)
    run_blocks(ROOT / "docs/howto/vectors.md", SMALLER)
    for made in (
        "sheet.png",
        "explorer.html",
        "runs/satmips/index.html",
        "report/index.html",
        "val.parquet",
        "val.gpkg",
        "atlas.parquet",
    ):
        assert (tmp_path / "out" / made).stat().st_size > 1000
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_pictures

    shards, encoder = satmip_data.open_shards("out/shards"), satmip_train.load("out/runs/satmips")
    assert make_pictures.chips(shards["val"]).width == make_pictures.reading(shards, encoder).width > 800


def parsed(words: list[str]) -> click.Context:
    """Parse a command line as click does, without running it."""
    command: click.Command = COMMANDS[words[0]]
    rest = words[1:]
    if isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    context = click.Context(command, info_name=words[0])
    values, arguments, _ = command.make_parser(context).parse_args(rest)
    for option in command.params:
        value = values.get(option.name or "")
        if isinstance(option.type, click.Choice) and isinstance(value, str):
            option.type.convert(value, option, context)
    assert isinstance(command, click.Group) is False or not arguments, f"no such command: {shlex.join(words)}"
    return context


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_code_blocks_have_these_options(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        try:
            parsed(words)
        except click.UsageError as error:
            pytest.fail(f"{shlex.join(words)}: {error.format_message()}")


def test_an_option_that_is_not_there_is_found() -> None:
    lines = list(
        command_lines("text\n\n    satmip-data build a b --wher x   # c\n    torchrun --nproc 8 -m satmip_train --recipe x\n")
    )
    assert lines == [["satmip-data", "build", "a", "b", "--wher", "x"], ["satmip-train", "--recipe", "x"]]
    with pytest.raises(click.UsageError):
        parsed(lines[0])
    parsed(lines[1])


def test_a_block_that_does_not_run_says_why() -> None:
    unrun = [block for page in PAGES for block in blocks(page) if block.reason]
    assert unrun
    for page in PAGES:
        assert len(re.findall("^<!-- not run:", page.read_text(), re.M)) == sum(bool(block.reason) for block in blocks(page)), page
