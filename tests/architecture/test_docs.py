"""The documentation is tested: an undocumented command or field is a red build."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from helpers.toy_shards import write_toy_shards

from satmip_data.cli.commands import main as data
from satmip_train.cli.evaluate import main as evaluate
from satmip_train.cli.train import main as train

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["fields", "cli", "scaling"])
def test_generated_pages_are_what_their_scripts_print(name: str) -> None:
    page = load(f"make_{name}").page()
    assert (ROOT / "docs" / f"{name}.md").read_text() == page, f"run: python docs/make_{name}.py > docs/{name}.md"


def contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    children = context.command.commands if isinstance(context.command, click.Group) else {}
    for word, child in children.items():
        yield from contexts(load("make_cli").context_of(child, word, context))


GROUPS = {"satmip-data": data, "satmip-train": train, "satmip-eval": evaluate}
ALL = {c.command_path: c for name, group in GROUPS.items() for c in contexts(load("make_cli").context_of(group, name))}


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_an_example(name: str) -> None:
    context = ALL[name]
    assert context.command.help, f"{name} is missing its help"
    body = context.command.get_help(context).split("\n", 1)[1]  # below the line of usage
    assert re.search(rf"^ +(Example: )?({name.split()[0]}|torchrun) ", body, re.M), f"{name} is missing an example"
    for option in context.command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{name} {option.opts[0]} is missing its help"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_pages_name_only_commands_there_are() -> None:
    known = set(ALL)
    for page in PAGES:
        for name in re.findall(r"\b(satmip-(?:data|eval) [a-z]+)\b", page.read_text()):
            assert name in known or name.split()[1] in {"is", "and", "out", "validate"}, f"{page.name} names {name!r}"


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    write_toy_shards(tmp_path / "shards", splits={"train": 8, "val": 4})
    arguments = ["--shards", "shards", "--recipe", "tiny", "--batch-size", "4", "--max-steps", "1", "--workers", "0"]
    run = [sys.executable, "-c", "from satmip_train.cli.train import main; main()", *arguments, "--out", "out/runs/satmips-seed0"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True)
