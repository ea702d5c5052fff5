"""The commands of `satmip-data`. Thin: each reads its options, calls one function and says what came out."""

import dataclasses
from pathlib import Path
from shlex import quote
from typing import Any, cast, get_args

import click
from rich.console import Console

from satmip_data import __version__
from satmip_data.cli import display
from satmip_data.cli.options import (
    DEFAULT_SHARDS,
    DecoderChoice,
    caption_options,
    engine_options,
    failures,
    limit_options,
    make_source,
    selection_options,
    shards_argument,
    source_options,
    workers_option,
)
from satmip_data.demo import write_demo
from satmip_data.demo.world import CLASSES, PLACES
from satmip_data.errors import DataError
from satmip_data.execution import tracking
from satmip_data.execution.interrupt import Commands, kept
from satmip_data.geometry import Context, FmowContext
from satmip_data.imagery import decoders
from satmip_data.imagery.decoders import DECODERS
from satmip_data.names import counted, without_secrets
from satmip_data.pipeline import build, estimate, recaption
from satmip_data.pipeline import request as request_module
from satmip_data.pipeline.equal_chips import EQUAL_CHIPS, read_equal_chips
from satmip_data.pipeline.recaption import CaptionRewrite
from satmip_data.pipeline.selection import Selection, read_exclusions
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards import dataset as dataset_module
from satmip_data.shards.dataset import TRAIN
from satmip_data.sources import SOURCES
from satmip_data.sources.base import Source
from satmip_data.storage.limits import Limits
from satmip_data.storage.store import Store
from satmip_data.validation import validate


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Turn raw satellite imagery and its metadata into WebDataset shards.

    \b
    Example:
      satmip-data build fmow/ out/shards
      satmip-data caption --fields gsd,time,loc
      satmip-data validate
    """


@main.command("build")
@click.argument("root", metavar="SOURCE")
@click.argument("out", metavar="[SHARDS]", default=DEFAULT_SHARDS)
@click.option(
    "--source", "source_name", type=click.Choice(list(SOURCES)), default="fmow", show_default=True, help="Kind of archive."
)
@source_options
@click.option(
    "--size",
    metavar="PIXELS|keep",
    help="Side of a chip; keep leaves windows as they are. Default: 224, and keep for sets of small labelled images.",
)
@click.option(
    "--context",
    metavar="SHARE|fmow|fmow-as-run",
    default="0",
    show_default=True,
    help="Share of the box's side added on each of its sides; fmow: the rule of the challenge's baseline, more for small boxes; "
    "fmow-as-run: that rule as its code ran, which compares widths with heights.",
)
@click.option(
    "--fit",
    type=click.Choice(["stretch", "square"]),
    default="stretch",
    show_default=True,
    help="stretch scales x and y apart, as the paper; square widens the window to a square.",
)
@click.option(
    "--gsd",
    type=click.Choice(["nominal", "ground"]),
    default="nominal",
    show_default=True,
    help="The sensor's nominal GSD, as the paper, or the true size on the ground.",
)
@caption_options
@click.option("--min-side", type=int, default=3, show_default=True, help="Reject boxes with a shorter side, in pixels.")
@click.option("--samples-per-shard", type=int, default=1000, show_default=True, help="Samples a shard, at most.")
@click.option("--quality", type=int, default=95, show_default=True, help="JPEG quality of the chips.")
@click.option(
    "--subsampling", type=click.Choice(["4:4:4", "4:2:2", "4:2:0"]), default="4:4:4", show_default=True, help="Of the chroma."
)
@click.option("--max-pixels", type=int, default=400_000_000, show_default=True, help="Reject images with more pixels.")
@limit_options
@click.option(
    "--decoder",
    type=DecoderChoice(DECODERS),
    default="auto",
    show_default=True,
    help="JPEG decoder. All give the same pixels; auto picks the fastest one installed.",
)
@click.option("--keep-damaged", is_flag=True, help="Keep images with damaged data, and flag them; without it they are rejects.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the global shuffle.")
@click.option("--limit", type=click.IntRange(1), help="Take the first so many items only.")
@selection_options
@click.option("--max-rejects", type=click.IntRange(0), help="Fail when more scenes or boxes than this give no sample.")
@click.option("--retry-rejects", is_flag=True, help="Read again the images that gave no chip; writes only their shards.")
@click.option("--dry-run", is_flag=True, help="Say what would be built, how large and how long; write nothing.")
@click.option("--wandb", "wandb_project", metavar="PROJECT", help="Log the progress to this Weights & Biases project.")
@engine_options
@workers_option
def build_command(root: str, out: str, source_name: str, **options: Any) -> None:
    """Build SHARDS (default out/shards) from the archive SOURCE, a folder or any fsspec URL.

    Stopped anywhere and run again, it finishes what is missing. A scene that gives no sample never stops it: it becomes a row of
    rejects.parquet with its reason.

    \b
    Example:
      satmip-data build fmow/ out/shards
      satmip-data build fmow/ out/shards --where "cloud_cover < 30" --dry-run
      satmip-data build --source xbd xbd/ out/xbd --tile 256
      satmip-data build s3://bucket/fmow-rgb s3://bucket/shards --workers 16
    """
    console = Console()
    with failures():
        request = _build_request(root, out, source_name, options)
        decoders.check(request.decoder)
        if options["dry_run"]:
            with tracking.progress_bar() as show:
                plan = build.plan_build(request, show)
            display.show_plan(console, plan, estimate.estimate(request, plan))
            if getattr(request.source, "time_pattern", ""):
                display.show_named_times(console, plan.index.samples)
            return
        dataset = build.standing(request)
        if dataset is not None:
            told = f"{out} was already built, and {root} was not read again. To read it again, name another folder."
            click.echo(without_secrets(told))
        else:
            config = {
                "root": without_secrets(root),
                "out": without_secrets(out),
                "source": source_name,
                **request.settings.to_json(),
            }
            with tracking.progress_bar() as bar, tracking.wandb_run(options["wandb_project"], config, bar) as show, kept():
                dataset = build.build(request, show)
    folder = quote(without_secrets(out))
    display.show_dataset(console, without_secrets(out), dataset)
    if equal := read_equal_chips(Store(out)):
        place = f"{without_secrets(out).rstrip('/')}/{EQUAL_CHIPS}"
        told = f"Equal chips of two splits, pixel for pixel: {len(equal):,}, listed in {place} as"
        click.secho(f"{told} --exclude takes it", fg="yellow")
    click.echo(f"Next: {_next(root, folder, source_name, dataset)}")


def _next(root: str, folder: str, source_name: str, dataset: dict[str, Any]) -> str:
    """Return commands that can follow a build: training needs a split of its own, and chips of one size."""
    caption = f"satmip-data caption {folder} --fields gsd,time,loc"
    if TRAIN not in dataset["splits"]:
        return caption
    if dataset["size"] is None:
        again = f"satmip-data build {quote(without_secrets(root))} {folder}-224 --source {source_name} --size 224"
        return f"{caption}   or, for chips of one size to train on,   {again}"
    return f"{caption}   or   satmip-train --shards {folder}"


def _build_request(root: str, out: str, source_name: str, options: dict[str, Any]) -> request_module.BuildRequest:
    names = {field.name for source in SOURCES.values() for field in dataclasses.fields(source)}
    source = make_source(source_name, {name: options[name] for name in names})
    size = _chip_size(options["size"], source)
    chosen = {f.name: options[f.name] for f in dataclasses.fields(BuildSettings) if f.name in options}
    try:
        own = {"size": size, "context": _context(options["context"]), "fields": options["caption_fields"]}
        settings = BuildSettings(**{**chosen, **own})
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if options["ray_address"] and options["engine"] != "ray":
        raise click.UsageError("--ray-address needs --engine ray, and the engine is local. Add: --engine ray")
    return request_module.BuildRequest(
        source, root, out, settings, options["workers"], options["limit"], options["max_rejects"],
        selection=_selection(options),
        retry_rejects=options["retry_rejects"],
        limits=Limits(options["max_unpacked"], options["max_scans"], options["max_windows"]),
        ray=(options["ray_address"] or "local") if options["engine"] == "ray" else None,
        decoder=options["decoder"],
    )  # fmt: skip


def _selection(options: dict[str, Any]) -> Selection:
    exclude = read_exclusions(options["exclude"]) if options["exclude"] else frozenset[str]()
    return Selection(options["splits"], options["categories"], options["where"], exclude, options["sample"])


def _chip_size(text: str | None, source: Source) -> int | None:
    if text is None:
        return source.default_size
    if text != "keep" and not text.isdigit():
        raise click.BadParameter(f'"{text}" is no number of pixels. Use a number such as 224, or keep.', param_hint="--size")
    return None if text == "keep" else int(text)


def _context(text: str) -> Context:
    if text in get_args(FmowContext):
        return cast(FmowContext, text)
    try:
        return float(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text} is no share. Use a number such as 0.1, fmow or fmow-as-run.", param_hint="--context"
        ) from error


@main.command("caption")
@shards_argument
@caption_options
@workers_option
def caption_command(shard_directory: str, caption_fields: tuple[str, ...], style: str, workers: int) -> None:
    """Write other captions into SHARDS (default out/shards), in place.

    Needs nothing but the shards. Stopped anywhere and run again, it finishes; until then the trainer refuses the shards.

    \b
    Example:
      satmip-data caption --fields gsd,time,loc
      satmip-data caption out/shards --fields all --style sentence
    """
    with failures(), tracking.progress_bar() as show, kept():
        dataset = recaption.recaption(shard_directory, CaptionRewrite(caption_fields, style), workers, show)
    display.show_captions(Console(), dataset)


@main.command("validate")
@shards_argument
@workers_option
def validate_command(shard_directory: str, workers: int) -> None:
    """Prove that SHARDS (default out/shards) hold what they say; exit 1 with a list of what does not.

    Checks hashes, counts, end-of-archive blocks, image sizes, schemas, captions, features, GSD out = GSD in x window / chip,
    footprints, the index and the rejects, and that the train split has mean 0 and deviation 1.

    \b
    Example:
      satmip-data validate out/shards
    """
    with failures(), tracking.progress_bar() as show:
        report = validate.validate(shard_directory, workers, show)
    display.show_report(Console(), report)
    if report.problems:
        raise click.exceptions.Exit(1)


@main.command("inspect")
@shards_argument
@click.option("--split", help="Show the fields and samples of this split alone.")
@click.option("--samples", type=click.IntRange(0), default=3, show_default=True, help="Samples to print.")
@click.option(
    "--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Also draw a contact sheet of chips with captions, as PNG."
)
@click.option("--chips", type=click.IntRange(1), default=24, show_default=True, help="Chips on the sheet.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a page to explore the samples: a map, charts that filter each other, chips. It opens without a network.",
)
def inspect_command(
    shard_directory: str, split: str | None, samples: int, sheet: Path | None, chips: int, html: Path | None
) -> None:
    """Print what SHARDS (default out/shards) hold: counts, ranges, missing fields, rejects, samples.

    \b
    Example:
      satmip-data inspect out/shards --html out/explorer.html
      satmip-data inspect out/shards --sheet out/sheet.png
      satmip-data inspect out/shards --split train
    """
    console = Console()
    with failures():
        dataset = dataset_module.read_dataset(Store(shard_directory))
        display.show_dataset(console, without_secrets(shard_directory), dataset)
        display.show_fields(console, shard_directory, dataset, split)
        display.show_samples(console, shard_directory, dataset, samples, split)
        if sheet is not None:
            display.write_sheet(shard_directory, dataset, sheet, chips, split)
            click.echo(f"Contact sheet: {sheet}")
        if html is not None:
            from satmip_data.explorer.page import write_page  # late: it needs the templates

            write_page(shard_directory, html, split)
            click.echo(f"Page: {html} ({html.stat().st_size / 1e6:.1f} MB). Open it in a browser.")


@main.command("fields")
def fields_command() -> None:
    """Print the 15 metadata fields with aliases, units and columns.

    \b
    Example:
      satmip-data fields
    """
    display.show_field_table(Console())


@main.command("demo")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the world.")
@click.option(
    "--places",
    type=click.IntRange(2 * len(CLASSES)),
    default=PLACES,
    show_default=True,
    help="Places on Earth, each seen one to three times.",
)
@workers_option
def demo_command(out: Path, seed: int, places: int, workers: int) -> None:
    """Write a small world to OUT: a made-up archive in fMoW's own form, whose pictures follow from their metadata.

    \b
    Example:
      satmip-data demo out/world
      satmip-data build out/world out/shards
    """
    try:
        summary = write_demo(out, seed=seed, places=places, workers=workers)
    except (ValueError, OSError, DataError) as error:
        raise click.ClickException(str(error)) from error
    counts = ", ".join(f"{count:,} {split}" for split, count in summary.images.items())
    click.echo(f"{out}: {counts} images of {counted(summary.places, 'place')}, {counted(len(summary.classes), 'class')}")
    click.echo(f"Next: satmip-data build {quote(str(out))} out/shards")
