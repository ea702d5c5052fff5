"""The commands of `satmip-data`. Each one is thin: it reads its options, calls one function and prints the result."""

import dataclasses
from pathlib import Path
from shlex import quote
from typing import Any, cast, get_args

import click

from satmip_data import __version__
from satmip_data.cli import display
from satmip_data.cli.options import (
    DecoderChoice,
    SourceCommand,
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
from satmip_data.execution.choices import DEFAULT_SHARDS, Choice, split_option
from satmip_data.execution.interrupt import Commands, kept
from satmip_data.execution.output import Output, output_options
from satmip_data.geometry import Context, FmowContext
from satmip_data.imagery import decoders
from satmip_data.imagery.decoders import DECODERS
from satmip_data.names import did_you_mean, without_secrets
from satmip_data.pipeline import build, estimate, recaption
from satmip_data.pipeline import request as request_module
from satmip_data.pipeline.equal_chips import EQUAL_CHIPS, read_equal_chips
from satmip_data.pipeline.recaption import CaptionRewrite
from satmip_data.pipeline.selection import Selection, read_exclusions
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.pipeline.where import WhereError
from satmip_data.pipeline.where import parse as parse_where
from satmip_data.records import REASONS
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
    """Build WebDataset shards from satellite imagery and its metadata.

    \b
    Example:
      satmip-data build fmow/ out/shards
      satmip-data caption --fields gsd,time,loc
      satmip-data validate
    """


@main.command("build", cls=SourceCommand)
@click.argument("root", metavar="SOURCE")
@click.argument("out", metavar="[SHARDS]", default=DEFAULT_SHARDS)
@click.option(
    "--source", "source_name", type=Choice(SOURCES, "source", metavar="NAME"), default="fmow", show_default=True,
    help=f"Kind of archive: {', '.join(SOURCES)}.",
)  # fmt: skip
@source_options
@click.option(
    "--size",
    metavar="PIXELS|keep",
    help="Side of a chip in pixels, or keep for the size of each window.  [default: 224; keep for sets of small images]",
)
@click.option(
    "--context",
    metavar="SHARE|fmow|fmow-as-run",
    default="0",
    show_default=True,
    help="Margin around each box, as a share of its side. fmow: the rule of the challenge's baseline, wider for small boxes. "
    "fmow-as-run: the same rule as its code ran, which compares widths with heights.",
)
@click.option(
    "--fit",
    type=click.Choice(["stretch", "square"]),
    default="stretch",
    show_default=True,
    help="How a window becomes square: stretch scales x and y separately, as in the paper; square widens the window.",
)
@click.option(
    "--gsd",
    type=click.Choice(["nominal", "ground"]),
    default="nominal",
    show_default=True,
    help="GSD to record: the sensor's nominal value, as in the paper, or the size measured on the ground.",
)
@caption_options
@click.option("--min-side", type=int, default=3, show_default=True, help="Reject boxes with a side shorter than this, in pixels.")
@click.option("--samples-per-shard", type=int, default=1000, show_default=True, help="Largest number of samples in a shard.")
@click.option("--quality", type=int, default=95, show_default=True, help="JPEG quality of the chips.")
@click.option(
    "--subsampling", type=click.Choice(["4:4:4", "4:2:2", "4:2:0"]), default="4:4:4", show_default=True,
    help="Chroma subsampling of the chips.",
)  # fmt: skip
@click.option("--max-pixels", type=int, default=400_000_000, show_default=True, help="Reject images with more pixels than this.")
@limit_options
@click.option(
    "--decoder",
    type=DecoderChoice(DECODERS),
    default="auto",
    show_default=True,
    help="JPEG decoder. All give identical pixels; auto picks the fastest one installed.",
)
@click.option("--keep-damaged", is_flag=True, help="Keep and flag images with damaged data instead of rejecting them.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the shuffle.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Read only the first N items of the archive.")
@selection_options
@click.option("--max-rejects", type=click.IntRange(0), metavar="N", help="Fail if more than N scenes or boxes give no sample.")
@click.option("--retry-rejects", is_flag=True, help="Read the rejected images again; only their shards are rewritten.")
@click.option("--dry-run", is_flag=True, help="Show what would be built, its size and the time it takes; write nothing.")
@click.option("--wandb", "wandb_project", metavar="PROJECT", help="Log progress to this Weights & Biases project.")
@engine_options
@workers_option
@output_options
def build_command(root: str, out: str, source_name: str, output: Output, **options: Any) -> None:
    """Build SHARDS (default out/shards) from the archive SOURCE, a folder or any fsspec URL.

    If it is interrupted, the same command goes on where it stopped. A scene that gives no sample does not stop it: it is listed
    in rejects.parquet with the reason.

    \b
    Example:
      satmip-data build fmow/ out/shards
      satmip-data build fmow/ out/shards --where "cloud_cover < 30" --dry-run
      satmip-data build --source xbd xbd/ out/xbd --tile 256
      satmip-data build s3://bucket/fmow-rgb s3://bucket/shards --workers 16
    """
    shown = without_secrets(out)
    with failures():
        request = _build_request(root, out, source_name, options)
        decoders.check(request.decoder)
        if options["dry_run"]:
            _show_dry_run(request, output)
            return
        dataset = build.standing(request)
        if dataset is not None:
            told = f"{out} was already built, and {root} was not read again. To read it again, name another folder."
            output.text(without_secrets(told))
        else:
            config = {
                "root": without_secrets(root),
                "out": without_secrets(out),
                "source": source_name,
                **request.settings.to_json(),
            }
            bars = tracking.progress_bar(output.quiet)
            with bars as bar, tracking.wandb_run(options["wandb_project"], config, bar) as show, kept():
                dataset = build.build(request, show)
        display.show_dataset(output, shown, dataset)
        display.show_first_rejects(output, out, dataset)
    output.document(display.summary(shown, dataset))
    if equal := read_equal_chips(Store(out)):
        place = f"{shown.rstrip('/')}/{EQUAL_CHIPS}"
        told = f"{len(equal):,} chips stand in two splits, pixel for pixel. They are listed in {place}"
        output.warn(f"{told}; to leave them out, build with --exclude {place}")
    output.next(*_next(root, quote(shown), source_name, dataset))
    if output.quiet:
        output.result(shown)


def _show_dry_run(request: request_module.BuildRequest, output: Output) -> None:
    with tracking.progress_bar(output.quiet) as show:
        plan = build.plan_build(request, show)
    expected = estimate.estimate(request, plan)
    display.show_plan(output, plan, expected)
    output.document(display.plan_summary(plan, expected))
    if getattr(request.source, "time_pattern", ""):
        display.show_named_times(output, plan.index.samples)


def _next(root: str, folder: str, source_name: str, dataset: dict[str, Any]) -> list[str]:
    """Return commands that can follow a build: training needs a split of its own, and chips of one size."""
    caption = f"satmip-data caption {folder} --fields gsd,time,loc"
    if TRAIN not in dataset["splits"]:
        return [caption]
    if dataset["size"] is None:  # chips of several sizes cannot be trained on
        return [caption, f"satmip-data build {quote(without_secrets(root))} {folder}-224 --source {source_name} --size 224"]
    return [caption, f"satmip-train --shards {folder}"]


def _next_of(shards: str, dataset: dict[str, Any]) -> list[str]:
    """Return commands that can follow one that looked at shards."""
    folder = quote(without_secrets(shards))
    if TRAIN in dataset["splits"] and dataset["size"] is not None:
        return [f"satmip-train --shards {folder}"]
    return [f"satmip-data inspect {folder}"]


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
    if options["where"].strip():
        try:
            parse_where(options["where"])  # before an archive is read, which may take an hour
        except WhereError as error:
            raise click.UsageError(str(error)) from error
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
        message = f'"{text}" is no share.{did_you_mean(text, get_args(FmowContext))} Use a number such as 0.1, fmow or fmow-as-run.'
        raise click.BadParameter(message, param_hint="--context") from error


@main.command("caption")
@shards_argument
@caption_options
@workers_option
@output_options
def caption_command(shard_directory: str, caption_fields: tuple[str, ...], style: str, workers: int, output: Output) -> None:
    """Rewrite the captions of SHARDS (default out/shards) in place.

    Only the shards are needed. If it is interrupted, the same command goes on where it stopped; until then the trainer refuses
    the shards.

    \b
    Example:
      satmip-data caption --fields gsd,time,loc
      satmip-data caption out/shards --fields all --style sentence
    """
    with failures(), tracking.progress_bar(output.quiet) as show, kept():
        dataset = recaption.recaption(shard_directory, CaptionRewrite(caption_fields, style), workers, show)
    display.show_captions(output, dataset)
    output.document({"shards": without_secrets(shard_directory), **dataset["caption"]})
    output.next(*_next_of(shard_directory, dataset))


@main.command("validate")
@shards_argument
@workers_option
@output_options
def validate_command(shard_directory: str, workers: int, output: Output) -> None:
    """Check that SHARDS (default out/shards) hold what dataset.json says; list the problems and exit with 1 if there are any.

    Checked are hashes, counts, ends of archives, image sizes, schemas, captions, features, GSD (that of the scene x window /
    chip), footprints, the index, the rejects, and that features of the train split have mean 0 and deviation 1.

    \b
    Example:
      satmip-data validate out/shards
    """
    with failures(), tracking.progress_bar(output.quiet) as show:
        report = validate.validate(shard_directory, workers, show)
    display.show_report(output, report)
    output.document(display.report_summary(without_secrets(shard_directory), report))
    if report.problems:
        raise click.exceptions.Exit(1)
    output.next(f"satmip-data inspect {quote(without_secrets(shard_directory))}")


@main.command("rejects")
@shards_argument
@click.option("--reason", type=Choice(REASONS, "reason", metavar="REASON"), help="Show only rejects with this reason.")
@click.option("--examples", type=click.IntRange(0), default=3, show_default=True, help="Examples of each reason.")
@output_options
def rejects_command(shard_directory: str, reason: str | None, examples: int, output: Output) -> None:
    """List what gave no sample when SHARDS (default out/shards) were built: by reason, with examples.

    \b
    Example:
      satmip-data rejects out/shards
      satmip-data rejects out/shards --reason image_unreadable --examples 20
      satmip-data rejects out/shards --json
    """
    shown = without_secrets(shard_directory)
    with failures():
        rows = display.read_rejects(shard_directory, dataset_module.read_dataset(Store(shard_directory)))
    found = display.rejects_by_reason((row for row in rows if reason in (None, row["reason"])), examples)
    counts = {name: group["count"] for name, group in found.items()}
    display.show_rejects(output, counts, result=True)
    display.show_examples(output, found)
    output.document({"shards": shown, "rejects": sum(counts.values()), "reasons": found})
    output.next(f"satmip-data inspect {quote(shown)}")


@main.command("inspect")
@shards_argument
@split_option("--split", shards="shard_directory", help="Show the fields and samples of this split only.")
@click.option("--samples", type=click.IntRange(0), default=3, show_default=True, help="Samples to print.")
@click.option(
    "--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Also draw chips with their captions into this PNG file."
)
@click.option("--chips", type=click.IntRange(1), default=24, show_default=True, help="Chips on the sheet.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a page to explore the samples: a map, charts that filter each other, chips. It opens without a network.",
)
@output_options
def inspect_command(
    shard_directory: str, split: str | None, samples: int, sheet: Path | None, chips: int, html: Path | None, output: Output
) -> None:
    """Show what SHARDS (default out/shards) hold: counts, ranges of the fields, missing values, rejects, samples.

    \b
    Example:
      satmip-data inspect out/shards --html out/explorer.html
      satmip-data inspect out/shards --sheet out/sheet.png
      satmip-data inspect out/shards --split train
    """
    shown = without_secrets(shard_directory)
    with failures():
        dataset = dataset_module.read_dataset(Store(shard_directory))
        ranges = display.field_ranges(shard_directory, display.read_index(shard_directory, dataset, split))
        firsts = display.first_samples(shard_directory, dataset, samples, split)
        display.show_dataset(output, shown, dataset)
        display.show_fields(output, ranges)
        display.show_samples(output, firsts)
        if sheet is not None:
            display.write_sheet(display.first_samples(shard_directory, dataset, chips, split), sheet)
            output.text(f"Contact sheet: {sheet}")
        if html is not None:
            from satmip_data.explorer.page import write_page  # late: it needs the templates

            write_page(shard_directory, html, split)
            output.text(f"Page: {html} ({html.stat().st_size / 1e6:.1f} MB). Open it in a browser.")
    listed = [{"key": key, "caption": caption} for key, _, caption in firsts]
    output.document({**display.summary(shown, dataset), "fields": ranges, "samples": listed})
    output.next(*_next_of(shard_directory, dataset))


@main.command("fields")
@output_options
def fields_command(output: Output) -> None:
    """List the metadata fields with their aliases, units and columns.

    \b
    Example:
      satmip-data fields
    """
    display.show_field_table(output)
    output.document(display.field_table())
    output.next("satmip-data caption --help")


@main.command("demo")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the world.")
@click.option(
    "--places",
    type=click.IntRange(2 * len(CLASSES)),
    default=PLACES,
    show_default=True,
    help="Number of places on Earth, each seen one to three times.",
)
@workers_option
@output_options
def demo_command(out: Path, seed: int, places: int, workers: int, output: Output) -> None:
    """Write a small made-up archive to OUT, in the layout of fMoW. What its images show follows from their metadata.

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
    output.text(f"{out}: {counts} images of {summary.places} places, {len(summary.classes)} classes")
    output.document({"out": out, "images": summary.images, "places": summary.places, "classes": summary.classes})
    output.next(f"satmip-data build {quote(str(out))} out/shards")
    if output.quiet:
        output.result(out)
