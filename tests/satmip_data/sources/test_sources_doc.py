"""A source or an option without its place in docs/sources.md is a red build, and so is a command there that does not exist."""

import dataclasses
import re
from pathlib import Path

import click
import pytest

from satmip_data.cli import commands as commands_module
from satmip_data.sources import SOURCES
from satmip_data.sources.columns import ALIASES, COLUMNS

TEXT = (Path(__file__).parents[3] / "docs/sources.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_has_its_command_and_licence(name: str) -> None:
    (row,) = (line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |") and "satmip-data build" in line)
    assert name == "fmow" or f"--source {name}" in row


def test_every_option_of_the_open_sources_is_explained() -> None:
    for name, source in SOURCES.items():
        if name not in ("fmow", "xbd"):
            for field in dataclasses.fields(source):
                assert f"--{field.name.replace('_', '-')}" in TEXT, f"--{field.name} of {name}"


def test_every_column_of_a_table_is_explained() -> None:
    for column in COLUMNS:
        assert f"`{column}`" in TEXT, column
    assert all(name.partition(":")[0] in TEXT for name in ALIASES)


def test_commands_of_the_page_parse() -> None:
    commands = re.findall(r"`satmip-data build ([^`]+)`", TEXT)
    assert len(commands) >= len(SOURCES)
    for command in commands:
        if not command.startswith("SOURCE"):
            context = click.Context(commands_module.build_command, help_option_names=["-h", "--help"])
            commands_module.build_command.make_parser(context).parse_args(command.split())
