"""The explorer's page: what a browser shows of it, and what its commands say."""

import json
import re
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from helpers.browser import dump, look_at
from helpers.fmow_builds import request
from helpers.fmow_tree import write_fmow_tree
from helpers.toy_shards import edited_copy, replace_shard

from satmip_data.cli import commands
from satmip_data.explorer.page import write_page
from satmip_data.pipeline import build


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of which one scene is a reject, and whose records contradict themselves: their suns stand anywhere."""
    root = tmp_path_factory.mktemp("fmow")
    paths = write_fmow_tree(root / "raw", places=8)
    paths[3].write_bytes(b"no <b>image</b>")
    build.build(request(root / "raw", root / "shards"))
    return root / "shards"


@pytest.fixture(scope="module")
def page(shards: Path) -> Path:
    write_page(str(shards), shards.parent / "page.html", pictures=20)
    return shards.parent / "page.html"


@pytest.fixture(scope="module")
def index(shards: Path) -> pd.DataFrame:
    return pd.read_parquet(shards / "index.parquet")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands.main, [str(argument) for argument in arguments])


def status(document: str) -> str:
    found = re.search(r'role="status">(.*?)<', document)
    assert found is not None
    return found[1]


def test_a_page_needs_no_network_and_lists_rejects(page: Path, index: pd.DataFrame) -> None:
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["']?(?!#|data:)[^"'> ]+""", text[: text.index('<script type="application/json"')])
    assert "image_unreadable: 1" in text
    assert f"{len(index)} samples" in text
    assert 20 <= text.count("data-row=") <= 32
    assert "<b>image" not in text


def test_the_address_sets_filters_and_all_charts_follow(page: Path, index: pd.DataFrame, tmp_path: Path) -> None:
    document = dump(page, tmp_path, "#month=2..3&split=train&unheard=1&gsd=x")
    kept = index[index["timestamp"].dt.month.between(2, 3) & (index["split"] == "train")]
    assert 0 < len(kept) < len(index)
    assert status(document).startswith(f"{len(kept)} of {len(index)} samples")
    assert 'data-drawn="yes"' in document
    # A chart counts by the filters of all others, so by month these are the train samples.
    months = index[index["split"] == "train"]["timestamp"].dt.month
    shown = re.search(r'id="chart-month".*?aria-label="Month: ([^"]*)"', document, re.S)
    assert shown is not None
    assert shown[1].startswith(f"median {['Jan', 'Feb', 'Mar', 'Apr'][int(months.quantile(0.5, interpolation='lower')) - 1]}")
    by_country = dict(re.findall(r'class="name">([A-Z]{3})</span><span class="number">(\d+)', document))
    assert {name: int(count) for name, count in by_country.items() if count != "0"} == kept["country_code"].value_counts().to_dict()
    rows = {int(row): "hidden" in rest for row, rest in re.findall(r'data-row="(\d+)"([^>]*)>', document)}
    assert {row for row, hidden in rows.items() if not hidden} == set(kept.index) & set(rows)
    for name in ("month", "gsd", "cloud_cover", "sun_elevation_angle", "caption"):
        assert re.search(rf'id="chart-{name}".*?class="kept" d="M', document, re.S)
    assert re.search(r'id="chart-place".*?class="level5" d="M', document, re.S)


ACTIONS = """
addEventListener("load", async () => {
  const page = document.documentElement, said = {};
  const wait = () => new Promise((done) => setTimeout(done, 20));
  while (!page.dataset.drawn) await wait();
  const chart = (name) => document.getElementById("chart-" + name);
  const look = async (name) => {
    await wait();
    said[name] = document.querySelector("[role=status]").textContent + " " + location.hash;
  };
  const press = (part, key, shiftKey = false) => part.dispatchEvent(new KeyboardEvent("keydown", {key, shiftKey, bubbles: true}));
  chart("split").querySelectorAll(".bars button")[0].click();
  await look("click");
  press(chart("month").querySelector("svg"), "Escape");
  await look("escape");
  press(chart("month").querySelector("svg"), "ArrowRight");
  await look("key");
  press(chart("month").querySelector("svg"), "ArrowRight", true);
  await look("wider");
  chart("month").querySelector(".clear").click();
  await look("clear");
  const area = chart("year").querySelector(".overlay"), box = area.getBoundingClientRect();
  const mouse = (kind, share) => (kind === "mousedown" ? area : window).dispatchEvent(new MouseEvent(kind, {
    bubbles: true, cancelable: true, view: window, clientX: box.left + share * box.width, clientY: box.top + box.height / 2}));
  mouse("mousedown", 0.01); mouse("mousemove", 0.3); mouse("mousemove", 0.45); mouse("mouseup", 0.45);
  await look("drag");
  document.title = JSON.stringify(said);
});
"""


def test_mouse_and_keyboard_set_and_clear_filters(page: Path, index: pd.DataFrame, tmp_path: Path) -> None:
    title = re.search(r"<title>(.*?)</title>", dump(page, tmp_path, script=ACTIONS), re.S)
    assert title is not None
    said = json.loads(unescape(title[1]))
    total = len(index)
    splits, months, years = index["split"].value_counts(), index["timestamp"].dt.month, index["timestamp"].dt.year
    assert said["click"] == f"{splits.iloc[0]} of {total} samples ({100 * splits.iloc[0] / total:.3g} %) #split={splits.index[0]}"
    assert said["escape"] == said["clear"] == f"{total} samples "
    peak = months.value_counts().sort_index().idxmax()
    assert said["key"].startswith(f"{(months == peak).sum()} of {total} samples")
    assert said["key"].endswith(f"#month={peak}..{peak}")
    assert said["wider"].startswith(f"{months.between(peak, peak + 1).sum()} of {total} samples")
    first, last = map(int, re.findall(r"#year=(\d+)\.\.(\d+)$", said["drag"])[0])
    assert first == years.min()
    assert first < last < years.max()
    assert said["drag"].startswith(f"{years.between(first, last).sum()} of {total} samples")


def test_a_page_fits_a_telephone(page: Path, tmp_path: Path) -> None:
    for width, shown in look_at(page, tmp_path).items():
        assert shown["overflow"] <= 0, width
        assert shown["pictures"] >= 20


def test_inspect_writes_the_page_of_a_split(shards: Path, index: pd.DataFrame, tmp_path: Path) -> None:
    written = run("inspect", shards, "--samples", "0", "--split", "val", "--html", tmp_path / "new" / "page.html")
    assert written.exit_code == 0, written.output
    assert "page.html" in written.output
    text = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert f"{(index['split'] == 'val').sum()} samples" in text


def test_names_in_the_data_become_no_markup(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }} a&b,c=d"
    for path in write_fmow_tree(tmp_path / "raw", places=2):
        record = json.loads(path.with_suffix(".json").read_text())
        for box in record["bounding_boxes"]:
            box["category"] = hostile if path.stem.endswith("0_rgb") else "lake"
        path.with_suffix(".json").write_text(json.dumps(record))
    build.build(request(tmp_path / "raw", tmp_path / "shards"))
    write_page(str(tmp_path / "shards"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    document = dump(tmp_path / "page.html", tmp_path, f"#class={quote(hostile, safe='')}")
    assert status(document).startswith("4 of 12 samples")


def test_damage_is_told_with_the_file(shards: Path, tmp_path: Path) -> None:
    copy = edited_copy(shards, tmp_path / "copy")
    names = [shard["name"] for shard in json.loads((copy / "dataset.json").read_text())["shards"]]
    for name in names:
        replace_shard(copy, name, b"\0" * 10240)
    damaged = run("inspect", copy, "--samples", "0", "--html", tmp_path / "page.html")
    for name in names:
        (copy / name).unlink()
    missing = run("inspect", copy, "--samples", "0", "--html", tmp_path / "page.html")
    for result in (damaged, missing):
        assert result.exit_code == 1
        assert any(name in result.output.splitlines()[-1] for name in names)
    assert "satmip-data validate" in damaged.output
    assert not (tmp_path / "page.html").exists()
