"""The documentation is tested: an undocumented command or field is a red build."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner
from helpers.fmow_tree import write_fmow_tree
from PIL import Image

from satmip_data.cli.commands import main as data
from satmip_train.cli.evaluate import main as evaluate
from satmip_train.cli.train import main as train

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


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


def anchors(page: Path) -> set[str]:
    """Return the anchors that MkDocs makes of the headings of a page."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_headings_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", page.read_text()):
        there = page.parent / target if target else page
        assert anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def test_every_page_stands_in_the_navigation_of_the_site() -> None:
    listed = set(re.findall(r"^ +- ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    added = {"CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"} | {
        f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb")
    }
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} | added
    assert listed == pages, "put it under nav in mkdocs.yml"


def test_pages_name_only_commands_there_are() -> None:
    known = set(ALL)
    for page in PAGES:
        for name in re.findall(r"\b(satmip-(?:data|eval) [a-z]+)\b", page.read_text()):
            assert name in known or name.split()[1] in {"is", "and", "out", "validate"}, f"{page.name} names {name!r}"


def test_the_python_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README and docs/python.md as a newcomer types them, block after block, beside a finished run."""
    monkeypatch.chdir(tmp_path)
    write_fmow_tree(tmp_path / "fmow")
    words = ["--shards", "out/shards", "--recipe", "tiny", "--batch-size", "4", "--max-steps", "1", "--workers", "0"]
    for command, arguments in (
        (data, ["build", "fmow", "out/shards", "--size", "32", "--workers", "1"]),
        (train, [*words, "--out", "out/runs/satmips-seed0"]),
    ):
        assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    (tmp_path / "images").mkdir()
    for number, name in enumerate(("image.jpg", "scene.tif", "images/a.png", "images/b.png")):
        Image.effect_noise((90 + number, 70), 60).convert("RGB").save(tmp_path / name)
    for page in ("README.md", "docs/python.md"):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
        assert blocks
        exec("\n".join(blocks), {})
