"""`satmip-train`: train on a shard directory, export a backbone, draw the curves of a run, list the recipes.

Modules that need torch are imported where they are used, so that help and errors come at once.
"""

import json
import sys
import warnings
from pathlib import Path
from shlex import join, quote
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click
from pydantic import ValidationError
from rich.console import Console

from satmip_data.execution.choices import Choice, Name, NameList, splits_of
from satmip_data.execution.interrupt import Commands
from satmip_data.execution.output import UNBOUNDED, Output, output_options
from satmip_data.metadata.fields import ALIASES, BY_NAME
from satmip_data.names import without_secrets
from satmip_train import __version__
from satmip_train.config import RETIRED, Settings, all_recipes, grouped_settings, resolve
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError, wrong_settings
from satmip_train.objective_names import KNOWN_OBJECTIVES, unknown_terms
from satmip_train.policies import POLICIES

if TYPE_CHECKING:
    from satmip_train.training.plan import RunPlan

_LISTS, _JSON = ("fields", "report_to"), ("backbone_args",)
_OWN = ("shards", "out", "device", "threads", "cache_dir", "rehearse", "verbose")
_TYPES: dict[str, click.ParamType[Any]] = {
    "objective": Name(lambda ctx: KNOWN_OBJECTIVES, "NAME"),
    "policy": Choice(POLICIES, "policy"),
    "split": Name(lambda ctx: splits_of(ctx.params.get("shards") or "out/shards"), "SPLIT"),
    "fields": NameList([*BY_NAME, *ALIASES], "FIELDS"),
    "report_to": NameList(["tensorboard", "wandb"], "NAMES"),
    "backbone_args": click.STRING,
}
"""Options whose type does not follow from that of the setting."""
_HELP = """Train a backbone on the images and metadata of a shard directory.

\b
  satmip-train --shards out/shards
  satmip-train --shards out/shards --recipe satmip --fields gsd,time,loc
  torchrun --nproc-per-node 8 -m satmip_train --shards out/shards
  satmip-train export out/runs/satmips-seed0

The recipe gives the settings; options override it. After an interruption the same command goes on where it stopped."""


class _GroupedHelp(Commands):
    """A group whose help shows the options under the headings of the settings, after those of the command itself."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names; advise where it is a folder or a part of a list, not a misspelt name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if getattr(error, "possibilities", None):
                raise
            raise click.UsageError(
                f'"{args[0]}" belongs to no option, and there is no such command. Name shards with --shards DIRECTORY, and write a '
                f"list without spaces, as --fields gsd,time. Commands: {', '.join(self.commands)}.",
                ctx,
            ) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group, then the commands."""
        records = {p.name: p.get_help_record(ctx) for p in self.get_params(ctx)}
        of_settings = grouped_settings()
        own = [name for name in records if name not in Settings.model_fields]
        for heading, names in {"Run": own, **of_settings}.items():
            with formatter.section(heading):
                formatter.write_dl([record for name in names if (record := records[name]) is not None])
        self.format_commands(ctx, formatter)


def _setting_options(command: Any) -> Any:
    """Give a command one option for each setting; the recipe decides those that are not passed."""
    for name, field in reversed(Settings.model_fields.items()):
        flag, inner = _option(name), _inner_type(field.annotation)
        if inner is bool:
            option = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=_sentence(field.description))
        else:
            option = click.option(flag, name, type=_click_type(name, inner), default=None, help=_sentence(field.description))
        command = option(command)
    return command


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _option(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _inner_type(annotation: Any) -> Any:
    """Return T of `T | None`, and any other type as it is."""
    if get_origin(annotation) in (Union, UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


class _Values(Choice):
    """The values of a setting. Values of earlier versions are accepted, and not shown."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; click.BadParameter is raised for one that never was."""
        retired = param is not None and (param.name, value) in RETIRED
        return value if retired else super().convert(value, param, ctx)


def _click_type(name: str, inner: Any) -> Any:
    if name in _TYPES:
        return _TYPES[name]
    return _Values(get_args(inner), "value") if get_origin(inner) is Literal else inner


def _flags(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were passed, as `Settings` takes them."""
    flags = {name: value for name, value in options.items() if value is not None}
    for name in flags.keys() & set(_LISTS):
        flags[name] = tuple(word.strip() for word in flags[name].split(",") if word.strip())
    for name in flags.keys() & set(_JSON):
        try:
            flags[name] = json.loads(flags[name])
        except ValueError as error:
            raise click.BadParameter(
                f"{flags[name]} is no JSON: {error}. Write it as '{{\"depth\": 6}}'.", param_hint=_option(name)
            ) from error
    return flags


def _settings(recipe: str, flags: dict[str, Any]) -> Settings:
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", FutureWarning)
            settings = resolve(recipe, flags)
    except ValidationError as error:
        raise click.UsageError("\n".join(wrong_settings(error, Settings.model_fields, as_options=True))) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for warning in told:
        click.secho(f"Warning: {warning.message}", fg="yellow", err=True)
    return settings


def _refuse_accumulation(context: click.Context, parameter: click.Parameter, value: int | None) -> None:
    if value is not None:
        raise click.UsageError(
            "Accumulated gradients would give another loss: each sample would be told apart from those of its own part of the "
            "batch alone. Use --micro-batch N, which takes as little memory and gives the exact loss."
        )


@click.group(
    cls=_GroupedHelp,
    invoke_without_command=True,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option("--shards", help="Shard directory: a local path or an fsspec URL.")
@click.option(
    "--recipe",
    default="auto",
    show_default=True,
    type=Name(lambda ctx: ["auto", *all_recipes()], "NAME|FILE.toml"),
    help="Recipe: a name (all: satmip-train recipes) or a TOML file. auto: satmips with a GPU, else tiny.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: out/runs/OBJECTIVE-seedSEED]")
@click.option("--device", default="auto", show_default=True, help="Device to train on: auto, cpu, cuda or cuda:1.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the training process.  [default: torch's]")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Folder for shards of a remote directory.  [default: the user's cache]"
)
@click.option("--print-config", is_flag=True, help="Print the resolved settings as JSON and exit.")
@click.option("--dry-run", "rehearse", is_flag=True, help="Run one batch, show memory and time needed, and write nothing.")
@click.option("--verbose", is_flag=True, help="Show every setting before training, not only an outline.")
@click.option("--accumulate", type=int, hidden=True, callback=_refuse_accumulation, expose_value=False)
@_setting_options
@click.version_option(__version__, "-V", "--version")
@click.pass_context
@output_options
def main(context: click.Context, /, recipe: str, print_config: bool, output: Output, **options: Any) -> None:
    """Train, or go on training."""
    if context.invoked_subcommand is not None:
        return
    shards, out, device, threads, cache_dir, rehearse, verbose = (options.pop(name) for name in _OWN)
    flags = _flags(options)
    if recipe == "auto":
        _settings("tiny", flags)  # what is wrong with the options shows before torch is imported to look for a GPU
        recipe = _choose_recipe(device)
    settings = _settings(recipe, flags)
    _check_objective(settings.objective)
    if print_config:
        click.echo(settings.model_dump_json(indent=1))
        return
    if shards is None:
        raise click.UsageError(
            "Missing option --shards: a shard directory, such as out/shards. To make one: satmip-data build --help"
        )
    run = out or Path("out/runs") / f"{settings.objective}-seed{settings.seed}"
    try:
        dataset = open_dataset(shards, cache_dir)
        dataset.split(settings.split)
        import torch

        from satmip_train.distributed import join_job
        from satmip_train.training.plan import plan_run
        from satmip_train.training.train import train

        if threads is not None:
            torch.set_num_threads(threads)
        with join_job(device) as job:
            width = None if sys.stdout.isatty() else UNBOUNDED
            silent = not job.main or output.mode != "text"
            console = Console(quiet=silent, markup=False, highlight=False, width=width)
            if job.main:
                _warn_of_idle(flags, settings, output)
            if rehearse:
                _show_dry_run(plan_run(settings, dataset, job), output if job.main else Output("quiet"))
                return
            stopped_by = train(settings, dataset, run, job, console, recipe, verbose)
            main_process = job.main
    except UsageError as error:
        raise click.ClickException(str(error)) from error
    if stopped_by:
        # As a shell reports a program that a signal ended, so that a scheduler can tell it from a finished run.
        context.exit(128 + stopped_by)
    if main_process:
        _show_end(run, without_secrets(shards), output)


def _check_objective(name: str) -> None:
    """Refuse an objective with an unknown term, before data are read; torch is imported for it only where a term is not "
    "satmip's."""
    if unknown_terms(name):
        from satmip_train.objectives import check_objective

        try:
            check_objective(name)
        except ValueError as error:
            raise click.UsageError(f"--objective: {error}") from error


def _show_end(run: Path, shards: str, output: Output) -> None:
    """Say where a finished run is, and what can follow."""
    from satmip_train.runs.cost import read_summary

    output.document({"run": run, **read_summary(run)})
    if output.quiet:
        output.result(run)
    folder = quote(str(run))
    output.next(f"satmip-eval knn {folder} --shards {quote(shards)}", f"satmip-train curves {folder}")


def _choose_recipe(device: str) -> str:
    import torch

    gpu = torch.cuda.is_available() and not device.startswith("cpu")
    chosen = "satmips" if gpu else "tiny"
    reason = "a GPU is there" if gpu else "no GPU is used; the paper's model is --recipe satmips"
    click.secho(f"Recipe: {chosen} ({reason})", fg="yellow", bold=True, err=True)
    return chosen


def _warn_of_idle(flags: dict[str, Any], settings: Settings, output: Output) -> None:
    """Name the options that were typed and have no effect; settings of a recipe that have none are not worth a warning."""
    from satmip_train.objectives import applies

    if idle := [_option(name) for name in flags if not applies(name, settings)]:
        output.warn(
            f"{', '.join(idle)} has no effect: nothing reads it with --objective {settings.objective} and --metadata-encoder "
            f"{settings.metadata_encoder}. Leave it out, or use another objective or metadata encoder."
        )


def _show_dry_run(plan: "RunPlan", output: Output) -> None:
    from satmip_train.training.dry_run import dry_run

    estimate = dry_run(plan)
    batch, workers = plan.settings.batch_size, max(plan.settings.workers, 1)
    seconds = estimate.seconds(workers)
    total, rate = plan.last_step * seconds / 3600, batch / seconds
    output.text(f"One batch of {batch} samples ran: loss {estimate.first_loss:.4f}, chance level {estimate.chance:.4f}.")
    peak = f"{estimate.peak_bytes / 2**30:.2f} GiB on {plan.job.device}"
    output.text(f"Peak memory: {peak} for each rank, without the images of a resident split.")
    output.text(f"Data: {estimate.data}.")
    making = f"{estimate.load_seconds:.3f} s to make its batch in one of {workers} process{'es' if workers > 1 else ''}"
    output.text(f"Time of a step: {estimate.step_seconds:.3f} s, and {making}.")
    output.text(f"Estimate: {rate:.{0 if rate > 10 else 2}f} samples/s, {plan.last_step} steps in {total:.2f} h.")
    output.document(
        {
            "loss": estimate.first_loss,
            "chance": estimate.chance,
            "peak_bytes": estimate.peak_bytes,
            "device": str(plan.job.device),
            "resident": estimate.data.resident,
            "step_seconds": estimate.step_seconds,
            "load_seconds": estimate.load_seconds,
            "samples_per_second": rate,
            "steps": plan.last_step,
            "hours": total,
        }
    )
    if not output.quiet:
        words = [word for word in sys.argv[1:] if word != "--dry-run"]
        output.next(f"satmip-train {join(words)}")


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--push", "repository", metavar="REPO", help="Upload the files to this model repository of the Hugging Face hub.")
@click.option(
    "--open-clip", is_flag=True, help="Also write both encoders as one open_clip model. Needs a textual metadata encoder."
)
@output_options
def export(run: Path, repository: str | None, open_clip: bool, output: Output) -> None:
    """Write the backbone, the metadata encoder and the model card of RUN from its last checkpoint.

    \b
    Example:
      satmip-train export out/runs/satmips-seed0
    """
    from satmip_train.runs.export import export_run
    from satmip_train.runs.hub import push

    try:
        files = export_run(run, open_clip, repository)
        url = None if repository is None else push(run, files, repository)
    except UsageError as error:
        raise click.ClickException(str(error)) from error
    output.result(*files, *([] if url is None else [url]))
    output.document({"files": files, "url": url})
    output.next(f"satmip-train curves {quote(str(run))}")


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@output_options
def curves(run: Path, output: Output) -> None:
    """Draw the curves of RUN and write its page, also while it is training.

    \b
    Example:
      satmip-train curves out/runs/satmips-seed0
    """
    from satmip_train.runs.page import write_run_page

    try:
        page = write_run_page(run)
    except UsageError as error:
        raise click.ClickException(str(error)) from error
    output.result(page, run / "curves.png")
    output.document({"page": page, "curves": run / "curves.png"})
    output.next(f"python -m webbrowser {quote(str(page))}")


@main.command()
@output_options
def recipes(output: Output) -> None:
    """List the recipes with what each is for.

    \b
    Example:
      satmip-train recipes
    """
    found = all_recipes()
    output.table(("recipe", "what it is for"), list(found.items()), result=True)
    output.document([{"recipe": name, "about": about} for name, about in found.items()])
    output.next("satmip-train --recipe satmips --print-config")


if __name__ == "__main__":
    main()
