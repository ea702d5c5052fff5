"""Further commands of `satmip-eval`: fine-tuning, segmentation, retrieval, reading, vectors, nearest chips.

Modules that need torch are imported where they are used, so that help and errors come at once.
"""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from satmip_data.execution.choices import split_option
from satmip_data.execution.output import Output, output_options
from satmip_data.names import without_secrets
from satmip_train.cli import options as common
from satmip_train.cli.options import options
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import tables

Decorator = Callable[[Any], Any]
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_SEED = click.option(
    "--seed", type=click.IntRange(0, common.LARGEST_SEED), default=0, show_default=True, help="Seed of everything random."
)


def _positive(name: str, default: float, text: str) -> Decorator:
    return click.option(name, type=common.Positive(), default=default, show_default=True, help=text)


def _count(name: str, default: int, text: str) -> Decorator:
    return click.option(name, type=click.IntRange(1), default=default, show_default=True, help=text)


@click.command("finetune")
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=common.RUN)
@options(*common.SPLITS, common.random_seeds(""), common.BACKBONES)
@_count("--epochs", 30, "Passes over the train split.")
@_count("--batch-size", 128, "Chips per batch.")
@_positive("--lr", 1e-4, "Peak learning rate of the backbone; the classifier's is ten times higher.")
@click.option("--weight-decay", type=common.Positive(or_zero=True), default=0.05, show_default=True, help="Weight decay of AdamW.")
@options(_SEED, common.PRECISION, common.WORKERS, common.DEVICE, common.PER_CLASS, common.out_folder(common.RESULTS))
@output_options
def finetune_command(
    runs: tuple[Path, ...],
    out: Path | None,
    per_class: bool,
    epochs: int,
    lr: float,
    weight_decay: float,
    seed: int,
    output: Output,
    **others: Any,
) -> None:
    """Fine-tune the backbone of each RUN with a linear classifier, and test both after the last epoch.

    The recipe is ours; the paper leaves fine-tuning to future work. Prints a table and writes finetune.json; the weights are
    below OUT/finetuned. After an interruption the same command goes on where it stopped.

    \b
    Example:
      satmip-eval finetune out/runs/satmips-seed0 --shards out/eurosat --epochs 30
      satmip-eval finetune --shards out/eurosat --backbone tiny --random-seeds 0
    """
    from satmip_train.evaluation import finetune
    from satmip_train.evaluation.evaluate import result_folder, write_result

    recipe = finetune.FinetuneSettings(epochs, others["batch_size"], lr, weight_decay, seed=seed)
    with common.errors(), common.make_protocol(**others) as protocol:
        out = result_folder(out, common.RESULTS, protocol.described, "finetune")
        protocol = replace(protocol, folder=out)
        total = epochs * protocol.train.splits[protocol.train_split]
        with common.show_progress(total, "fine-tuning of", output.quiet) as progress:
            result = finetune.finetune(runs, protocol, recipe, out, progress)
        path = write_result(result, out)
    common.show(output, result, per_class, path)
    output.next(*common.report_of(runs, others["shards"]))


@click.command("segment")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=common.RUN)
@click.option("--train", type=_FOLDER, required=True, help="Folder to learn from, with images/NAME.* and masks/NAME.png.")
@click.option("--test", type=_FOLDER, required=True, help="Folder to test on, in the same layout.")
@options(common.random_seeds("0,1,2"))
@_count("--epochs", 20, "Passes over the train folder.")
@_positive("--lr", 1e-3, "Initial learning rate of the classifier.")
@options(_SEED, *common.RUNNING, common.PER_CLASS, common.out_folder(common.RESULTS))
@output_options
def segment_command(
    runs: tuple[Path, ...],
    train: Path,
    test: Path,
    random_seeds: tuple[int, ...],
    out: Path | None,
    per_class: bool,
    output: Output,
    **others: Any,
) -> None:
    """Segment images by a linear classifier on the frozen patch features of each RUN: mean IoU and pixel accuracy.

    A mask is a PNG of one channel that holds class numbers; 255 is ignored. The protocol is ours; the paper leaves dense
    prediction to future work. Prints a table and writes segment.json.

    \b
    Example:
      satmip-eval segment out/runs/satmips-seed0 --train buildings/train --test buildings/val
    """
    from satmip_train.evaluation import segment
    from satmip_train.evaluation.evaluate import result_folder, write_result

    recipe = segment.SegmentSettings(others.pop("epochs"), lr=others.pop("lr"), seed=others.pop("seed"))
    with common.errors(), common.make_running(**others) as running:
        folders = segment.read_folders(train, test)
        out = result_folder(out, common.RESULTS, folders.described, "segment", name=test.resolve().parent.name)
        with common.show_progress(None, hidden=output.quiet) as progress:
            result = segment.segment(runs, folders, recipe, running, random_seeds, progress)
        path = write_result(result, out)
    common.show(output, result, per_class, path)


@click.command("location")
@options(*common.SPLITS)
@_count("--k", 5, "Nearest locations that vote.")
@options(common.PER_CLASS, common.out_folder(common.RESULTS))
@output_options
def location_command(k: int, per_class: bool, out: Path | None, output: Output, **others: Any) -> None:
    """Classify by the nearest locations, without images: a baseline for what the place alone tells.

    A model that only recognises places can reach this much. If it is high, split by place: satmip-data build --block-degrees.
    Prints a table and writes location.json.

    \b
    Example:
      satmip-eval location --shards out/shards --test-split test
    """
    from satmip_train.evaluation import location
    from satmip_train.evaluation.evaluate import result_folder, write_result

    with common.errors(), common.make_protocol(**others, device="cpu") as protocol:
        out = result_folder(out, common.RESULTS, protocol.described, "location")
        result = location.locate(protocol, location.Settings(k))
        path = write_result(result, out)
    common.show(output, result, per_class, path)


@click.command("retrieve")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=common.RUN)
@click.option("--shards", required=True, help="Shard directory: a local path or an fsspec URL.")
@split_option("--split", default="val", show_default=True, help="Split to search in.")
@options(*common.RUNNING, common.out_folder(common.RESULTS))
@output_options
def retrieve_command(runs: tuple[Path, ...], shards: str, split: str, out: Path | None, output: Output, **others: Any) -> None:
    """Retrieve metadata by images and images by metadata, with the projections of each RUN of satmip or satmips.

    Prints R@1, R@5, R@10, the median rank, and the errors of the first result: kilometres, days of the year, hours of the day,
    years, ratio of the GSDs; all beside their chance level. Writes retrieval.json.

    \b
    Example:
      satmip-eval retrieve out/runs/satmip-seed0 --shards out/shards --split val
    """
    from satmip_train.evaluation import retrieval
    from satmip_train.evaluation.evaluate import describe_split, result_folder, write_result

    with common.errors(), common.make_running(**others) as running:
        dataset = open_dataset(shards)
        dataset.split(split)
        out = result_folder(out, common.RESULTS, {"test": describe_split(dataset, split)}, "retrieval")
        with common.show_progress(2 * dataset.splits[split], hidden=output.quiet) as progress:
            result = retrieval.retrieve(runs, dataset, split, running, progress)
        path = write_result(result, out)
    for table in tables.retrieval_tables(result):
        common.show_table(output, table)
    output.document(result)
    output.result(path)
    output.next(*common.report_of(runs, shards))


@click.command("read")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=common.RUN)
@click.option("--shards", required=True, help="Shard directory: a local path or an fsspec URL.")
@split_option("--split", default="val", show_default=True, help="Split of the images.")
@split_option("--records", default="train", show_default=True, help="Split of the metadata to choose from.")
@options(*common.RUNNING, common.out_folder(common.RESULTS))
@output_options
def read_command(
    runs: tuple[Path, ...], shards: str, split: str, records: str, out: Path | None, output: Output, **others: Any
) -> None:
    """Read GSD, latitude, day of the year and the sun's elevation from images, with the projections of each RUN.

    Each image gets the nearest record of another split, so none can find its own. Prints the median errors beside those of the
    best constant and of a random record; writes reading.json. A run with --shuffle-metadata is the control.

    
    Example:
      satmip-eval read out/runs/satmips-seed0 out/runs/shuffled --shards out/shards
    """
    from satmip_train.evaluation import reading
    from satmip_train.evaluation.evaluate import describe_split, result_folder, write_result

    with common.errors(), common.make_running(**others) as running:
        dataset = open_dataset(shards)
        for name in (split, records):
            dataset.split(name)
        out = result_folder(out, common.RESULTS, {"test": describe_split(dataset, split)}, "reading")
        with common.show_progress(dataset.splits[split] + dataset.splits[records], hidden=output.quiet) as progress:
            result = reading.read(runs, dataset, (split, records), running, progress)
        path = write_result(result, out)
    common.show_table(output, tables.reading_table(result))
    output.document(result)
    output.result(path)
    output.next(*common.report_of(runs, shards))


@click.command("embed")
@click.argument("run", type=common.RUN)
@click.option("--images", type=_FOLDER, help="Folder of images, with its subfolders. GeoTIFF keep their footprint.")
@click.option("--shards", help="Shard directory: a local path or an fsspec URL.")
@split_option("--split", default="val", show_default=True, help="Split of the shards.")
@options(*common.RASTERS, *common.RUNNING)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="out/vectors.parquet",
    show_default=True,
    help="GeoParquet file to write.",
)
@output_options
def embed_command(
    run: Path,
    images: Path | None,
    shards: str | None,
    split: str,
    out: Path,
    output: Output,
    **others: Any,
) -> None:
    """Write the feature vector of every image of a folder, or of a split of shards, by the backbone of RUN into a GeoParquet file.

    Its columns are path (key for shards), vector, and geometry (footprint, EPSG:4326). Each image is resized whole to the view
    size of RUN. Images that cannot be read are listed with the reason beside OUT, in NAME.rejects.parquet.

    \b
    Example:
      satmip-eval embed out/runs/satmips-seed0 --images scenes/ --bands 4,3,2 --stretch minmax:0,3000
      satmip-eval embed out/runs/satmips-seed0 --shards out/shards --split val --out out/val.parquet
    """
    if (images is None) == (shards is None):
        raise click.UsageError("Use either --images FOLDER or --shards DIRECTORY.")
    from satmip_train.data.image_files import parse_rendering
    from satmip_train.evaluation import embed as embedding

    look = [others.pop(name) for name in ("bands", "stretch", "apply_scale")]
    with common.errors(), common.make_running(**others) as running:
        embedding.check_output(out)
        network = embedding.load_network(run)
        with common.show_progress(None, "vectors of", output.quiet) as progress:
            running = replace(running, progress=lambda samples: progress(run.name, samples))
            if images is not None:
                rendering = parse_rendering(*look)
                written, rejects = embedding.write_folder_vectors(network, images, rendering, out, running)
            else:
                written, rejects = embedding.write_shard_vectors(network, open_dataset(str(shards)), split, out, running)
    output.text(f"{written:,} vectors of {network.width} numbers: {out}")
    if rejects:
        found = f"{len(rejects):,} of {written + len(rejects):,} images gave no vector"
        output.warn(f"{found}. They are listed in {embedding.rejects_path(out)}. First: {rejects[0].message}")
    counts = {"vectors": written, "width": network.width, "rejects": len(rejects)}
    output.document({"file": out, **counts})
    if output.quiet:
        output.result(out)
    if shards is not None:
        output.next(shlex.join(["satmip-eval", "neighbours", str(run), "--shards", without_secrets(shards)]))


@click.command("neighbours")
@click.argument("run", type=common.RUN)
@options(*common.SPLITS)
@click.option("--query", "keys", multiple=True, metavar="KEY", help="Sample to search for. Repeatable.")
@_count("--queries", 8, "Without --query: number of samples to search for, spread evenly over the split.")
@_count("--count", 8, "Nearest chips shown for each sample.")
@options(*common.RUNNING)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default="out/neighbours.png", show_default=True, help="PNG to write."
)
@output_options
def neighbours_command(
    run: Path,
    shards: str,
    test_shards: str | None,
    train_split: str,
    test_split: str | None,
    out: Path,
    output: Output,
    **others: Any,
) -> None:
    """Draw chips of the test split with the chips of the train split that are nearest to them by the features of RUN.

    \b
    Example:
      satmip-eval neighbours out/runs/satmips-seed0 --shards out/shards --queries 6 --out out/neighbours.png
      satmip-eval neighbours out/runs/satmips-seed0 --shards out/shards --test-split train --query train_fountain_514_1_rgb
    """
    from satmip_train.evaluation import gallery as gallery_module
    from satmip_train.evaluation.models import image_features, load_model

    asked = {name: others.pop(name) for name in ("keys", "queries", "count")}
    with common.errors(), common.make_running(**others) as running:
        if out.suffix.lower() != ".png":
            raise UsageError(f"The sheet is a PNG. Use --out {out.with_suffix('.png')} instead of {out}")
        dataset = open_dataset(shards)
        tested = dataset if test_shards is None else open_dataset(test_shards)
        split = common.tested_split(tested, test_split)
        model = load_model(run)
        with common.show_progress(None, hidden=output.quiet) as progress:
            running = replace(running, progress=lambda samples: progress(model.name, samples))
            found = image_features(model, dataset, train_split, running)
            queried = image_features(model, tested, split, running, dataset)
        gallery = gallery_module.Gallery(found, queried, dataset, tested, train_split, split)
        title = f"{model.name}: {split} and the nearest of {train_split}"
        gallery_module.write_sheet(gallery, **asked, title=title, out=out)
    output.document({"sheet": out, "train_split": train_split, "test_split": split})
    output.result(out)
    output.next(common.opening(out))


COMMANDS = [finetune_command, segment_command, location_command, retrieve_command, read_command, embed_command, neighbours_command]
