"""The commands of satmip-eval beyond the paper's two probes: fine-tuning, segmentation, retrieval, vectors, nearest chips.

What needs torch is imported where it is used, see `eval_cli`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from satmip_data.names import counted
from satmip_train.cli import options as common
from satmip_train.cli.options import options
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation import tables

Decorator = Callable[[Any], Any]
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_SEED = click.option(
    "--seed", type=click.IntRange(0, common.LARGEST_SEED), default=0, show_default=True, help="Of all that is drawn."
)


def _positive(name: str, default: float, text: str) -> Decorator:
    return click.option(name, type=common.Positive(), default=default, show_default=True, help=text)


def _count(name: str, default: int, text: str) -> Decorator:
    return click.option(name, type=click.IntRange(1), default=default, show_default=True, help=text)


@click.command("finetune")
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=common.RUN)
@options(*common.SPLITS, common.random_seeds(""), common.BACKBONES)
@_count("--epochs", 30, "Passes over the train split.")
@_count("--batch-size", 128, "Chips a batch.")
@_positive("--lr", 1e-4, "Highest learning rate of the backbone; the classifier's is ten times that.")
@click.option("--weight-decay", type=common.Positive(or_zero=True), default=0.05, show_default=True, help="Of AdamW.")
@options(_SEED, common.PRECISION, common.WORKERS, common.DEVICE, common.PER_CLASS, common.out_folder(common.RESULTS))
def finetune_command(
    runs: tuple[Path, ...], out: Path | None, per_class: bool, epochs: int, lr: float, weight_decay: float, seed: int, **others: Any
) -> None:
    """Train the backbone of each RUN and a linear classifier end to end, and test them after the last epoch.

    The recipe is ours; the paper leaves fine-tuning to future work. Prints a table and writes finetune.json, with the weights
    below OUT/finetuned. The same command goes on after an interruption.

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
        with common.show_progress(epochs * protocol.train.splits[protocol.train_split], "fine-tuning of") as progress:
            result = finetune.finetune(runs, protocol, recipe, out, progress)
        path = write_result(result, out)
    common.show(result, per_class, path)


@click.command("segment")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=common.RUN)
@click.option("--train", type=_FOLDER, required=True, help="Folder to learn from: images/NAME.* and masks/NAME.png.")
@click.option("--test", type=_FOLDER, required=True, help="Folder to test on, of the same form.")
@options(common.random_seeds("0,1,2"))
@_count("--epochs", 20, "Passes over the train folder.")
@_positive("--lr", 1e-3, "First learning rate of the classifier.")
@options(_SEED, *common.RUNNING, common.PER_CLASS, common.out_folder(common.RESULTS))
def segment_command(
    runs: tuple[Path, ...],
    train: Path,
    test: Path,
    random_seeds: tuple[int, ...],
    out: Path | None,
    per_class: bool,
    **others: Any,
) -> None:
    """Fit a linear classifier of the frozen patch features of each RUN to masks: mean IoU and pixel accuracy.

    A mask is a PNG of one channel that holds class numbers; 255 is ignored. The protocol is ours; the paper leaves dense prediction
    to future work. Prints a table and writes segment.json.

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
        with common.show_progress(None) as progress:
            result = segment.segment(runs, folders, recipe, running, random_seeds, progress)
        path = write_result(result, out)
    common.show(result, per_class, path)


@click.command("location")
@options(*common.SPLITS)
@_count("--k", 5, "Nearest locations that vote.")
@options(common.PER_CLASS, common.out_folder(common.RESULTS))
def location_command(k: int, per_class: bool, out: Path | None, **others: Any) -> None:
    """Classify by the nearest locations, without a picture: what the place alone tells.

    A model that only recognises places can reach this much. Where it is high, split by place: satmip-data build --block-degrees.
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
    common.show(result, per_class, path)


@click.command("retrieve")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=common.RUN)
@click.option("--shards", required=True, help="Shard directory: a local path or an fsspec URL.")
@click.option("--split", default="val", show_default=True, help="Split whose pairs are told apart.")
@options(*common.RUNNING, common.out_folder(common.RESULTS))
def retrieve_command(runs: tuple[Path, ...], shards: str, split: str, out: Path | None, **others: Any) -> None:
    """Find the metadata of an image, and the image of metadata, with the projections of each RUN of satmip or satmips.

    Prints R@1, R@5, R@10, the median rank, and how far off what is found first is: kilometres, days of the year, hours of the day,
    years, ratio of the GSDs; all beside chance. Writes retrieval.json.

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
        with common.show_progress(2 * dataset.splits[split]) as progress:
            result = retrieval.retrieve(runs, dataset, split, running, progress)
        path = write_result(result, out)
    for table in tables.retrieval_tables(result):
        Console().print(tables.rich_table(table))
    click.echo(path)


@click.command("read")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=common.RUN)
@click.option("--shards", required=True, help="Shard directory: a local path or an fsspec URL.")
@click.option("--split", default="val", show_default=True, help="Split whose pictures are read.")
@click.option("--records", default="train", show_default=True, help="Split whose records they are read by.")
@options(*common.RUNNING, common.out_folder(common.RESULTS))
def read_command(runs: tuple[Path, ...], shards: str, split: str, records: str, out: Path | None, **others: Any) -> None:
    """Read GSD, latitude, day of the year and the sun's elevation off pictures, with the projections of each RUN.

    For each picture the nearest record of another split is found, so no picture can find its own. Prints the median errors beside
    those of the best constant and of a random record; writes reading.json. A run with --shuffle-metadata shows what is no merit.

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
        with common.show_progress(dataset.splits[split] + dataset.splits[records]) as progress:
            result = reading.read(runs, dataset, (split, records), running, progress)
        path = write_result(result, out)
    Console().print(tables.rich_table(tables.reading_table(result)))
    click.echo(path)


@click.command("embed")
@click.argument("run", type=common.RUN)
@click.option("--images", type=_FOLDER, help="Folder of images, searched whole; GeoTIFF keep their footprint.")
@click.option("--shards", help="Shard directory: a local path or an fsspec URL.")
@click.option("--split", default="val", show_default=True, help="Split of the shards.")
@click.option("--bands", default="auto", show_default=True, help='Bands of a raster for red, green and blue, from 1, as "4,3,2".')
@click.option(
    "--stretch", default="none", show_default=True, help='Of a raster to 8 bits: "minmax:0,3000", "percentile:2,98" or "none".'
)
@click.option(
    "--apply-scale", is_flag=True, help="Stretch physical units, as rasters declare scale and offset; give limits in these."
)
@options(*common.RUNNING)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="out/vectors.parquet",
    show_default=True,
    help="File to write.",
)
def embed_command(
    run: Path,
    images: Path | None,
    shards: str | None,
    split: str,
    bands: str,
    stretch: str,
    apply_scale: bool,
    out: Path,
    **others: Any,
) -> None:
    """Write the vector of every image of a folder, or of a split of shards, that the backbone of RUN gives: a GeoParquet file.

    Columns: path (key, of shards), vector, geometry (footprint, EPSG:4326). Each image is resized whole to the view of RUN.
    Images that cannot be read are counted and listed with the reason beside OUT, in NAME.rejects.parquet.

    \b
    Example:
      satmip-eval embed out/runs/satmips-seed0 --images scenes/ --bands 4,3,2 --stretch minmax:0,3000
      satmip-eval embed out/runs/satmips-seed0 --shards out/shards --split val --out out/val.parquet
    """
    if (images is None) == (shards is None):
        raise click.UsageError("Use --images FOLDER or --shards DIRECTORY, one of the two")
    from satmip_train.data.image_files import parse_rendering
    from satmip_train.evaluation import embed as embedding

    with common.errors(), common.make_running(**others) as running:
        embedding.check_output(out)
        network = embedding.load_network(run)
        with common.show_progress(None, "vectors of") as progress:
            running = replace(running, progress=lambda samples: progress(run.name, samples))
            if images is not None:
                rendering = parse_rendering(bands, stretch, apply_scale)
                written, rejects = embedding.write_folder_vectors(network, images, rendering, out, running)
            else:
                written, rejects = embedding.write_shard_vectors(network, open_dataset(str(shards)), split, out, running)
    click.echo(f"{counted(written, 'vector')} of {counted(network.width, 'number')}: {out}")
    if rejects:
        found = f"{len(rejects):,} of {counted(written + len(rejects), 'image')} gave no vector"
        click.echo(f"{found}: {embedding.rejects_path(out)}. First: {rejects[0].message}")


@click.command("neighbours")
@click.argument("run", type=common.RUN)
@options(*common.SPLITS)
@click.option("--query", "keys", multiple=True, metavar="KEY", help="Sample to search for; may be given several times.")
@_count("--queries", 8, "Where no --query is given: so many samples, evenly spaced over the split.")
@_count("--count", 8, "Nearest chips shown for each.")
@options(*common.RUNNING)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default="out/neighbours.png", show_default=True, help="PNG to write."
)
def neighbours_command(
    run: Path,
    shards: str,
    test_shards: str | None,
    train_split: str,
    test_split: str | None,
    out: Path,
    **others: Any,
) -> None:
    """Draw the chips of the train split that are most similar, for the features of RUN, to some chips of the test split.

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
        with common.show_progress(None) as progress:
            running = replace(running, progress=lambda samples: progress(model.name, samples))
            found = image_features(model, dataset, train_split, running)
            queried = image_features(model, tested, split, running, dataset)
        gallery = gallery_module.Gallery(found, queried, dataset, tested, train_split, split)
        title = f"{model.name}: {split} and the nearest of {train_split}"
        gallery_module.write_sheet(gallery, **asked, title=title, out=out)
    click.echo(out)


COMMANDS = [finetune_command, segment_command, location_command, retrieve_command, read_command, embed_command, neighbours_command]
