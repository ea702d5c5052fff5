"""satmip-eval ask: what a picture tells of where, when and how it was taken.

What needs torch is imported where it is used, see `evaluate`.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from satmip_data.execution.choices import split_option
from satmip_train.cli import options as common
from satmip_train.cli.options import options
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.errors import UsageError
from satmip_train.files import result_path, write_atomically

if TYPE_CHECKING:
    from satmip_train.encoder import Encoder
    from satmip_train.evaluation.metadata_features import Running
    from satmip_train.joint_space.ask import Answer, Asker
    from satmip_train.joint_space.asked import Asked
    from satmip_train.joint_space.description import Description

_SHOWN, MOST_OF_A_PAGE = 20, 24


@click.command("ask")
@click.argument("run", type=common.RUN)
@click.argument("images", metavar="[IMAGE]...", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--shards", help="Shard directory whose records are the references.  [default: what RUN learned from]")
@split_option("--references", "reference_split", help="Split of the references.  [default: that which RUN learned from]")
@split_option("--split", help="Split to ask about, where an IMAGE is a shard directory.  [default: val, or test]")
@click.option("--given", metavar="DESCRIPTION", help='What is known of the images already, as "datetime=2016-07-01,gsd=0.5".')
@click.option("--find", metavar="DESCRIPTION", help='List the chips that fit best, as "lat=45..47,month=7,gsd<1"; IMAGE: shards.')
@click.option("--count", type=click.IntRange(1), default=12, show_default=True, help="Chips that --find lists.")
@click.option("--grid", is_flag=True, help="Look for the location on an even grid of the sphere, not at the references.")
@click.option(
    "--calibration", type=click.Path(dir_okay=False, path_type=Path), help="File of the calibration.  [default: kept in RUN/ask]"
)
@click.option("--test", is_flag=True, help="Measure answers on held-out places instead, beside baselines; writes ask.json.")
@click.option("--beside", type=common.RUN, help="With --test: another run whose features find the nearest chips, as of SimCLR.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page of the first answers.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write a GeoParquet file; with --test, the folder.  [default: out/eval]"
)
@options(*common.RASTERS, *common.RUNNING)
def ask_command(run: Path, images: tuple[Path, ...], **chosen: Any) -> None:
    """Tell where, when and how images were taken, from the metadata that RUN finds alike: a run of satmip or satmips.

    IMAGE is a file, a folder of images, a GeoTIFF or a shard directory. Of location, day, hour, year, GSD and the other fields that
    RUN learned: the best answer, and regions that hold the truth in 50, 80 and 95 % of pictures of new places, calibrated on places
    of the shards that RUN did not learn from. These are guesses from looks. See docs/ask.md for what they must not be used for.

    \b
    Example:
      satmip-eval ask out/runs/satmips scene.tif --stretch percentile:2,98 --html out/ask.html
      satmip-eval ask out/runs/satmips out/shards --split val --out out/answers.parquet
      satmip-eval ask out/runs/satmips out/shards --find "lat=45..60,month=7,gsd<1"
      satmip-eval ask out/runs/satmips --test --beside out/runs/simclr
    """
    _check(images, chosen)
    running = {name: chosen[name] for name in ("precision", "batch_size", "workers", "device")}
    with common.errors(), common.make_running(**running) as how, common.show_progress(None) as progress:
        how = replace(how, progress=lambda samples: progress(run.name, samples))
        _ask(run, images, chosen, how)


def _check(images: tuple[Path, ...], chosen: dict[str, Any]) -> None:
    if chosen["test"] and (images or chosen["find"] or chosen["given"]):
        raise click.UsageError("--test takes no IMAGE, --given or --find")
    if chosen["beside"] and not chosen["test"]:
        raise click.UsageError("--beside goes with --test")
    if not images and not chosen["test"]:
        raise click.UsageError("Name an IMAGE: a file, a folder or a shard directory")
    if chosen["find"] and (len(images) != 1 or not (images[0] / "dataset.json").is_file()):
        raise click.UsageError("--find searches one shard directory. Pass it as the IMAGE")
    out: Path | None = chosen["out"]
    if out is not None and not chosen["test"] and out.suffix != ".parquet":
        raise click.UsageError(f"Answers are written as Parquet. Use --out {out.with_suffix('.parquet')}")


def _ask(run: Path, images: tuple[Path, ...], chosen: dict[str, Any], running: "Running") -> None:
    from satmip_train.encoder import load
    from satmip_train.joint_space.ask import open_asker
    from satmip_train.joint_space.description import parse

    known, sought = (None if chosen[name] is None else parse(chosen[name]) for name in ("given", "find"))
    encoder = load(run, device=running.device, precision=running.precision, batch_size=running.batch_size)
    dataset = None if chosen["shards"] is None else open_dataset(chosen["shards"])
    asker = open_asker(
        encoder, run, dataset, running, split=chosen["reference_split"], file=chosen["calibration"], grid=chosen["grid"]
    )
    if chosen["test"]:
        _test(asker, run, dataset, chosen, running)
        return
    if known is not None:
        asker = asker.told(known)
    parts = [_asked(encoder, run, group, asker, chosen, running) for group in _groups(images)]
    if sought is not None:
        _find(asker, parts[0], sought, chosen)
        return
    answers = chain.from_iterable(asker.ask(part.pictures) for part in parts)
    if chosen["html"] is None:
        _tell(asker, parts, answers, chosen)
        return
    first = list(islice(answers, MOST_OF_A_PAGE))
    _tell(asker, parts, chain(first, answers), chosen)
    _page(asker, run, parts, first, dataset, chosen["html"])


def _groups(images: tuple[Path, ...]) -> list[list[Path]]:
    """Return shard directories alone, and the other images together."""
    shards = [[path] for path in images if (path / "dataset.json").is_file()]
    files = [path for path in images if not (path / "dataset.json").is_file()]
    return [*([files] if files else []), *shards]


def _asked(encoder: "Encoder", run: Path, paths: list[Path], asker: "Asker", chosen: dict[str, Any], running: "Running") -> "Asked":
    from satmip_train.data.image_files import parse_rendering
    from satmip_train.joint_space import asked

    if (paths[0] / "dataset.json").is_file():
        dataset = open_dataset(paths[0])
        split = common.tested_split(dataset, chosen["split"])
        return asked.of_shards(run, dataset, split, running, asker.references.source["networks"])
    assert encoder.projections is not None
    rendering = parse_rendering(chosen["bands"], chosen["stretch"], chosen["apply_scale"])
    return asked.of_files(paths, encoder.network, encoder.projections.image, rendering, running)


def _tell(asker: "Asker", parts: "list[Asked]", answers: "Iterator[Answer]", chosen: dict[str, Any]) -> None:
    from satmip_train.joint_space import words

    total = sum(len(part.pictures) for part in parts)
    notes = words.about_regions(asker.calibration, asker.names, asker.given is not None)
    first: list[Answer] = []
    if chosen["out"] is not None:
        first = list(islice(answers, _SHOWN))
        about = {"references": asker.references.source, "calibration": asker.calibration.source}
        words.write_parquet(chain(first, answers), chosen["out"], about)
    if chosen["as_json"]:
        found = chain(first, answers)
        text = [one.to_json() for one in found]
        click.echo(json.dumps({"images": text, "notes": notes}, indent=1, allow_nan=False))
        return
    first = first or list(islice(answers, _SHOWN))
    header, rows = words.answer_rows(first[0]) if total == 1 else words.summary_rows(first)
    show_table(header, rows, first[0].name if total == 1 else None)
    if total > len(first):
        click.echo(f"{total - len(first):,} more" + ("" if chosen["out"] else "; --out FILE.parquet or --json gives all"))
    if total == 1:
        near = ", ".join(f"{one.key} ({one.similarity:.2f})" for one in first[0].nearest[:3])
        click.echo(f"Nearest references: {near}")
    for note in notes:
        click.echo(note)
    for reject in [reject for part in parts for reject in part.rejects][:3]:
        click.echo(f"Not read: {reject.path}: {reject.message}", err=True)
    if chosen["out"] is not None:
        click.echo(chosen["out"])


def _page(asker: "Asker", run: Path, parts: "list[Asked]", answers: "list[Answer]", dataset: Dataset | None, path: Path) -> None:
    from satmip_train.joint_space import ask_page, words
    from satmip_train.joint_space.ask import trained_on

    source = asker.references.source
    shards = dataset or trained_on(run)
    if shards is not None and shards.fingerprint != source["shards"]:
        shards = None
    notes = words.about_regions(asker.calibration, asker.names, asker.given is not None)
    about = ask_page.About(run.resolve().name, notes, shards if asker.given is None else None, source["split"])
    ask_page.write_page(path, parts, answers, about)
    click.echo(path, err=True)


def _test(asker: "Asker", run: Path, dataset: Dataset | None, chosen: dict[str, Any], running: "Running") -> None:
    from satmip_train.joint_space import words
    from satmip_train.joint_space.ask import trained_on
    from satmip_train.joint_space.trial import trial

    dataset = dataset or trained_on(run)
    if dataset is None:
        raise UsageError(f"The shards that {run} learned from are not at hand. Use --shards DIRECTORY.")
    result = trial(asker, run, dataset, chosen["beside"], running)
    path = result_path(chosen["out"] or Path("out/eval"), "ask")
    text = json.dumps({"run": run.resolve().name, **result}, indent=1, allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode()))
    if chosen["as_json"]:
        click.echo(text)
        return
    show_table(*words.trial_rows(result))
    click.echo(words.about_trial(result))
    for note in words.about_regions(asker.calibration, asker.names, given=False):
        click.echo(note)
    click.echo(path)


def _find(asker: "Asker", searched: "Asked", sought: "Description", chosen: dict[str, Any]) -> None:
    from satmip_data.metadata.serialize import metadata_to_json
    from satmip_train.joint_space import words
    from satmip_train.joint_space.find import find

    found = find(asker, searched.pictures, sought, chosen["count"])
    among = float(sought.fits(searched.pictures.records).mean())
    if chosen["as_json"]:
        rows = [{"key": one.key, "times": one.times, "fits": one.fits, "metadata": metadata_to_json(one.record)} for one in found]
        click.echo(json.dumps({"description": sought.text, "share_that_fits": among, "found": rows}, indent=1, allow_nan=False))
        return
    show_table(*words.found_rows(found, asker.names), title=f"The chips that suit {sought.text} best, by their looks alone")
    share = sum(one.fits for one in found) / len(found)
    click.echo(
        f"By their records {100 * share:.0f} % of these fit, and {100 * among:.2g} % of all {len(searched.pictures):,} chips."
    )


def show_table(header: tuple[str, ...], rows: list[tuple[str, ...]], title: str | None = None) -> None:
    """Print a table of words."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for number, name in enumerate(header):
        longest = max([len(name), *(len(row[number]) for row in rows)])
        table.add_column(name, overflow="fold", min_width=min(longest, 20 if number == 0 else 5))
    for row in rows:
        table.add_row(*row)
    Console().print(table)


COMMANDS = [ask_command]
