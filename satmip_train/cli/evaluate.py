"""`satmip-eval`: the commands that measure the features of trained networks.

Modules that need torch are imported where they are used, so that help and errors come at once.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from satmip_data.execution.interrupt import Commands
from satmip_data.execution.output import Output, output_options
from satmip_train import __version__
from satmip_train.choices import Modality
from satmip_train.cli import ask, audit, eval_commands, paper
from satmip_train.cli import options as common
from satmip_train.cli.options import options
from satmip_train.data.dataset import open_dataset

if TYPE_CHECKING:
    from satmip_train.evaluation.classifiers import Probe


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "-V", "--version")
def main() -> None:
    """Evaluate trained networks by the paper's protocols, and the same networks with random weights as a baseline.

    \b
    Example:
      satmip-eval knn out/runs/* --shards out/shards
      satmip-eval report --shards out/shards --runs out/runs/*
    """


@main.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=common.RUN)
@options(*common.PROTOCOL, common.BACKBONES, *common.EXTERNAL, common.LARGER_IMAGES, common.LABEL_SHARE, *common.KNN)
@options(common.PER_CLASS, common.out_folder(common.RESULTS))
@output_options
def knn(runs: tuple[Path, ...], ks: tuple[int, ...], fixed_k: int, temperature: float, **others: Any) -> None:
    """Classify by nearest neighbours: macro-F1 and top-1 accuracy of each RUN, a folder of satmip-train (mAP on multi-label sets).

    Prints a table and writes knn.json. Runs that differ only in their seed are also summarised. Features are kept in
    RUN/features.

    \b
    Example:
      satmip-eval knn out/runs/satmips-seed* --shards out/shards --k 1,5,20,100
      satmip-eval knn --shards out/eurosat --backbone pixels --backbone tiny
    """
    from satmip_train.evaluation.classifiers import Knn

    _evaluate(runs, Knn(ks, fixed_k, temperature), **others)


@main.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=common.RUN)
@options(*common.PROTOCOL, common.BACKBONES, *common.EXTERNAL, common.LARGER_IMAGES, common.LABEL_SHARE)
@click.option(
    "--modality",
    type=click.Choice(get_args(Modality)),
    default="image",
    show_default=True,
    help="Features to classify: those of images, of metadata, or both concatenated.",
)
@click.option(
    "--standardize/--no-standardize",
    default=None,
    help="Standardize features to zero mean and unit variance on the train split.  [default: only with metadata]",
)
@click.option(
    "--max-iterations", type=click.IntRange(1), default=200, show_default=True, help="Largest number of L-BFGS iterations."
)
@options(common.PER_CLASS, common.out_folder(common.RESULTS))
@output_options
def linear(runs: tuple[Path, ...], max_iterations: int, standardize: bool | None, modality: Modality, **others: Any) -> None:
    """Classify by logistic regression without regularisation: macro-F1 and top-1 accuracy of each RUN (mAP on multi-label sets).

    Prints a table and writes linear.json (linear-metadata.json, linear-both.json) with the iterations and the gradient of each
    fit. Baselines for metadata are the plain tabular features and an encoder with random weights.

    \b
    Example:
      satmip-eval linear out/runs/satmips-seed0 --shards out/shards
      satmip-eval linear out/runs/satmip-seed* --shards out/shards --modality both
    """
    from satmip_train.evaluation.classifiers import Linear

    scaled = modality != "image" if standardize is None else standardize
    _evaluate(runs, Linear(max_iterations, standardize=scaled), modality=modality, **others)


def _evaluate(runs: tuple[Path, ...], probe: "Probe", *, out: Path | None, per_class: bool, output: Output, **others: Any) -> None:
    from satmip_train.evaluation.evaluate import evaluate, result_folder, write_result

    names, files, size = (others.pop(name) for name in ("externals", "weights", "external_size"))
    measured = runs
    with common.errors(), common.make_protocol(**others) as protocol:
        kind, share = type(probe).__name__.lower(), protocol.label_share
        out = result_folder(out, common.RESULTS, protocol.described, kind, protocol.modality, share=share)
        protocol = replace(protocol, folder=out)
        runs = (*runs, *common.install_externals(names, files, size, out))
        with common.show_progress(common.samples_of(protocol), hidden=output.quiet) as progress:
            result = evaluate(runs, protocol, probe, progress)
        path = write_result(result, out)
    common.show(output, result, per_class, path)
    output.next(*common.report_of(measured, others["shards"]))


@main.command("report")
@click.argument("more_runs", metavar="[RUN]...", nargs=-1, type=common.RUN)
@click.option(
    "--runs",
    metavar="RUN...",
    multiple=True,
    type=common.RUN,
    help="Folders of satmip-train. Without any, the page shows the data.",
)
@options(*common.PROTOCOL, *common.KNN, common.out_folder(common.REPORTS))
@output_options
def report_command(
    runs: tuple[Path, ...],
    more_runs: tuple[Path, ...],
    out: Path | None,
    ks: tuple[int, ...],
    fixed_k: int,
    temperature: float,
    output: Output,
    **others: Any,
) -> None:
    """Write one HTML page of runs and their data: chips, metadata read from images, kNN, neighbours, curves, settings.

    The page is a single file that opens without a network.

    \b
    Example:
      satmip-eval report --shards out/shards --runs out/runs/satmips-seed0 out/runs/simclr-seed0 --out out/report
    """
    from satmip_train.evaluation import report
    from satmip_train.evaluation.classifiers import Knn
    from satmip_train.evaluation.evaluate import evaluate, result_folder, set_name, write_result

    # "--runs A B" gives A to the option and leaves B an argument.
    chosen = (*runs, *more_runs)
    with common.errors():
        dataset = open_dataset(others["shards"])
        if chosen and dataset.classes:
            with common.make_protocol(**others) as protocol:
                out = result_folder(out, common.REPORTS, protocol.described, "knn")
                with common.show_progress(common.samples_of(protocol), hidden=output.quiet) as progress:
                    result = evaluate(chosen, protocol, Knn(ks, fixed_k, temperature), progress)
                write_result(result, out)
                readings = report.readings(chosen, protocol)
                path = report.write_report(dataset, report.Evaluated(protocol, result), chosen, out, readings)
        else:
            out = out or Path(common.REPORTS, set_name(dataset.root))
            path = report.write_report(dataset, None, chosen, out)
    output.document({"page": path, "runs": list(map(str, chosen))})
    output.result(path)
    output.next(common.opening(path))


for command in (*eval_commands.COMMANDS, *ask.COMMANDS, *audit.COMMANDS, *paper.COMMANDS):
    main.add_command(command)

if __name__ == "__main__":
    main()
