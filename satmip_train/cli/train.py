"""satmip-train: train on a shard directory, export a backbone, draw the curves of a run.

What needs torch is imported where it is used: help and errors come seconds earlier.
"""

import json
import warnings
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click
from pydantic import ValidationError
from rich.console import Console

from satmip_data.execution.interrupt import Commands
from satmip_data.names import counted
from satmip_train.config import RETIRED, Settings, grouped_settings, recipe_names, resolve
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError, wrong_settings

if TYPE_CHECKING:
    from satmip_train.training.plan import RunPlan

_LISTS, _JSON = ("fields", "report_to"), ("backbone_args",)
_OWN = ("shards", "out", "device", "threads", "cache_dir", "rehearse")
_HELP = """Train a backbone on the chips and metadata of a shard directory.

\b
  satmip-train --shards out/shards
  satmip-train --shards out/shards --recipe satmip --metadata-encoder tabular --fields gsd,timestamp,location
  torchrun --nproc-per-node 8 -m satmip_train --shards out/shards --recipe satmips
  satmip-train export out/runs/satmips-seed0

Settings come from the recipe; options given here win over it. The same command goes on with a run that was interrupted."""


class _GroupedHelp(Commands):
    """Help whose options stand under the headings of the settings, after those of the command itself."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names; advise where it is a folder or a part of a list, not a slip of a name."""
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
    """Give a command one option for each setting; those that are not passed stay with the recipe."""
    for name, field in reversed(Settings.model_fields.items()):
        flag, inner = _option(name), _inner_type(field.annotation)
        if inner is bool:
            option = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=field.description)
        else:
            option = click.option(flag, name, type=_click_type(name, inner), default=None, help=field.description)
        command = option(command)
    return command


def _option(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _inner_type(annotation: Any) -> Any:
    """Return T of `T | None`, and any other type as it is."""
    if get_origin(annotation) in (Union, UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


class _Values(click.Choice[str]):
    """The values of a setting; those that it once had are taken too, and not shown."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value. Raises click.BadParameter where there is none such and never was."""
        retired = param is not None and (param.name, value) in RETIRED
        return value if retired else super().convert(value, param, ctx)


def _click_type(name: str, inner: Any) -> Any:
    if get_origin(inner) is Literal:
        return _Values(get_args(inner))
    return str if name in (*_LISTS, *_JSON) else inner


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
    help=f"One of {', '.join(recipe_names())}, or a TOML file. auto: satmips with a GPU, else tiny.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: out/runs/OBJECTIVE-seedSEED]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the training process.  [default: torch's]")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Where shards of a remote directory are kept.  [default: the user's cache]"
)
@click.option("--print-config", is_flag=True, help="Print the resolved settings as JSON and leave.")
@click.option(
    "--dry-run", "rehearse", is_flag=True, help="Take one batch through everything, print memory and time, write nothing."
)
@click.option("--accumulate", type=int, hidden=True, callback=_refuse_accumulation, expose_value=False)
@_setting_options
@click.version_option(package_name="satmip")
@click.pass_context
def main(context: click.Context, /, recipe: str, print_config: bool, **options: Any) -> None:
    """Train, or go on training."""
    if context.invoked_subcommand is not None:
        return
    shards, out, device, threads, cache_dir, rehearse = (options.pop(name) for name in _OWN)
    flags = _flags(options)
    recipe = _choose_recipe(recipe, device)
    settings = _settings(recipe, flags)
    if print_config:
        click.echo(settings.model_dump_json(indent=1))
        return
    if shards is None:
        raise click.UsageError("Missing option --shards: a shard directory, such as out/shards. `satmip-data build` makes one.")
    run = out or Path("out/runs") / f"{settings.objective}-seed{settings.seed}"
    try:
        dataset = open_dataset(shards, cache_dir)
        import torch

        from satmip_train.distributed import join_job
        from satmip_train.training.plan import plan_run
        from satmip_train.training.train import train

        if threads is not None:
            torch.set_num_threads(threads)
        with join_job(device) as job:
            console = Console(quiet=not job.main, markup=False, highlight=False)
            _warn_of_idle(flags, settings, console)
            if rehearse:
                _show_dry_run(plan_run(settings, dataset, job), console)
                return
            stopped_by = train(settings, dataset, run, job, console, recipe)
    except UsageError as error:
        raise click.ClickException(str(error)) from error
    if stopped_by:
        # As a shell reports a program that a signal ended, so that a scheduler can tell it from a finished run.
        context.exit(128 + stopped_by)


def _choose_recipe(recipe: str, device: str) -> str:
    if recipe != "auto":
        return recipe
    import torch

    gpu = torch.cuda.is_available() and not device.startswith("cpu")
    chosen = "satmips" if gpu else "tiny"
    reason = "a GPU is there" if gpu else "no GPU is used; the paper's model is --recipe satmips"
    click.secho(f"Recipe: {chosen} ({reason})", fg="yellow", bold=True, err=True)
    return chosen


def _warn_of_idle(flags: dict[str, Any], settings: Settings, console: Console) -> None:
    """Name the options that were typed and that nothing reads; what a recipe holds for other objectives is no matter."""
    from satmip_train.objectives import applies

    if idle := [_option(name) for name in flags if not applies(name, settings)]:
        console.print(
            f"Warning: nothing reads {', '.join(idle)} with objective {settings.objective} and metadata_encoder "
            f"{settings.metadata_encoder}. Leave it out, or pass another --objective or --metadata-encoder.",
            style="yellow",
            soft_wrap=True,
        )


def _show_dry_run(plan: "RunPlan", console: Console) -> None:
    from satmip_train.training.dry_run import dry_run

    estimate = dry_run(plan)
    batch, workers = plan.settings.batch_size, max(plan.settings.workers, 1)
    seconds = estimate.seconds(workers)
    console.print(f"One batch of {batch} went through: loss {estimate.first_loss:.4f}, chance level {estimate.chance:.4f}.")
    console.print(
        f"Peak memory: {estimate.peak_bytes / 2**30:.2f} GiB on {plan.job.device}, each rank; a resident split comes on top."
    )
    console.print(f"Data: {estimate.data}.", soft_wrap=True)
    console.print(
        f"A step takes {estimate.step_seconds:.3f} s; making its batch {estimate.load_seconds:.3f} s in one process, of {workers}."
    )
    total, rate = plan.last_step * seconds / 3600, batch / seconds
    steps = counted(plan.last_step, "step")
    console.print(f"Estimate: {rate:.{0 if rate > 10 else 2}f} samples/s, {steps} in {total:.2f} h.", soft_wrap=True)


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--push", "repository", metavar="REPO", help="Upload the files to this model repository of the Hugging Face hub.")
@click.option(
    "--open-clip", is_flag=True, help="Also write both encoders as one model of open_clip; needs a textual metadata encoder."
)
def export(run: Path, repository: str | None, open_clip: bool) -> None:
    """Write backbone, metadata encoder and model card of RUN, from its last checkpoint.

    \b
    Example: satmip-train export out/runs/satmips-seed0
    """
    from satmip_train.runs.export import export_run
    from satmip_train.runs.hub import push

    try:
        files = export_run(run, open_clip, repository)
        for path in files:
            click.echo(path)
        if repository is not None:
            click.echo(push(run, files, repository))
    except UsageError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def curves(run: Path) -> None:
    """Draw the curves of RUN and write its page, also while it goes.

    \b
    Example: satmip-train curves out/runs/satmips-seed0
    """
    from satmip_train.runs.page import write_run_page

    try:
        click.echo(write_run_page(run))
        click.echo(run / "curves.png")
    except UsageError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
