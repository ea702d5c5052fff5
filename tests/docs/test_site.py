"""What the site's build adds to its pages. The build itself is `make docs`, which `.ci/run` runs."""

import re
from pathlib import Path

import pytest
from helpers.doc_blocks import ROOT


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


def test_every_mark_of_the_code_is_a_departure() -> None:
    import make_departures

    marks = [
        (str(path.relative_to(ROOT)), number)
        for package in ("satmip_data", "satmip_train")
        for path in (ROOT / package).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for _ in re.findall(r"NOTE\[DIFF\]", line)
    ]
    found = make_departures.departures()
    assert sorted(marks) == sorted((departure.path, departure.line) for departure in found)
    assert all(len(departure.text) > 20 for departure in found)
    assert make_departures.listing().count("\n* ") == len(found)


def test_a_mark_ends_where_its_sentence_does(tmp_path: Path) -> None:
    import make_departures

    path = tmp_path / "module.py"
    path.write_text(
        '"""Title.\n\nNOTE[DIFF]: the one\nof two lines.\n\nMore.\n"""\n\n\ndef f():\n    """Do it.\n\n    NOTE[DIFF] Two.\n'
        '    Shape: (N,)\n    """\n    # NOTE[DIFF] Three\n    # goes on.\n    x = 1  # no mark\n    # other\n    return x\n'
    )
    assert make_departures.notes(path) == [(3, "The one of two lines."), (13, "Two."), (16, "Three goes on.")]


def test_what_a_page_loads_from_other_servers_is_found() -> None:
    hooks = pytest.importorskip("hooks", reason="the site's build needs: pip install -e '.[docs]'")
    page = (
        '<link rel="stylesheet" href="https://fonts.example/a.css"><link rel="canonical" href="https://here.example/">'
        '<script src="//cdn.example/b.js"></script><img src="images/c.png"><a href="https://there.example">x</a>'
    )
    assert hooks.loaded_from_elsewhere(page) == ["https://fonts.example/a.css", "//cdn.example/b.js"]


def test_a_notebook_becomes_a_page() -> None:
    hooks = pytest.importorskip("hooks", reason="the site's build needs: pip install -e '.[docs]'")
    page = hooks.notebook_page(ROOT / "docs/notebooks/what_a_picture_tells.ipynb")
    assert page.startswith("# What does the network know about this picture?")
    assert "satmip_train.load(" in page


def test_options_of_a_build_are_printed() -> None:
    hooks = pytest.importorskip("hooks", reason="the site's build needs: pip install -e '.[docs]'")
    from satmip_data.api import BuildOptions

    printed = hooks.build_options()
    assert all(f"`{name}: " in printed for name in BuildOptions.__annotations__)


def test_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "docs/images").iterdir()) < 300_000
