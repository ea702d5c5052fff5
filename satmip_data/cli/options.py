"""Options and arguments that several commands share."""

import dataclasses
import os
import textwrap
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from satmip_data.errors import DataError, cause, install, missing_package
from satmip_data.execution.choices import DEFAULT_SHARDS, complete_list, split_option
from satmip_data.imagery.decoders import FORMER
from satmip_data.metadata import fields
from satmip_data.metadata.captions import STYLES
from satmip_data.sources import SOURCES
from satmip_data.sources.base import Source
from satmip_data.storage.limits import DEFAULT

Command = TypeVar("Command", bound=Callable[..., Any])


class DecoderChoice(click.Choice[str]):
    """One of the decoders; those that were taken out are understood as "auto"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the decoder that is used."""
        if value in FORMER:
            click.echo(f"--decoder {value} is no longer used: auto decodes as fast with less.", err=True)
            return "auto"
        return super().convert(value, param, ctx)


class FieldList(click.ParamType[tuple[str, ...]]):
    """A comma-separated list of fields, such as "gsd,time,loc"."""

    name = "FIELDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names the list stands for."""
        if isinstance(value, tuple):
            return value
        try:
            return fields.parse_fields(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the ways to go on with the last name of the list."""
        return complete_list([*fields.BY_NAME, *fields.ALIASES], incomplete)


def workers_option(command: Command) -> Command:
    """`--workers`, with one meaning everywhere."""
    # Of a job that a scheduler binds to some cores, only these; not every system tells them.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    option = click.option("--workers", type=click.IntRange(1), default=count, show_default="all cores", help="Number of processes.")
    return option(command)


def caption_options(command: Command) -> Command:
    """`--fields` and `--style`, the same for `build` and `caption`."""
    command = click.option(
        "--style", type=click.Choice(list(STYLES)), default="key-value", show_default=True, help="Style of the captions."
    )(command)
    return click.option(
        "--fields", "caption_fields", type=FieldList(), default="gsd,time,loc", show_default=True,
        help="Fields of the captions, by name or alias. All fields: satmip-data fields",
    )(command)  # fmt: skip


def shards_argument(command: Command) -> Command:
    """The shard directory, `out/shards` unless named."""
    return click.argument("shard_directory", metavar="[SHARDS]", default=DEFAULT_SHARDS)(command)


def source_options(command: Command) -> Command:
    """One option for each option of each source; sources with an option of the same name share it."""
    owners: dict[str, list[tuple[str, dataclasses.Field[Any]]]] = {}
    for name, source in SOURCES.items():
        for field in dataclasses.fields(source):
            owners.setdefault(field.name, []).append((name, field))
    for name, uses in reversed(owners.items()):
        kind = _option_type(typing.get_type_hints(SOURCES[uses[0][0]])[name])
        form: dict[str, Any] = {"is_flag": True} if kind is bool else {"type": kind}
        command = click.option(
            f"--{name.replace('_', '-')}", name, default=None, help=_option_help(uses), cls=SourceOption,
            sources=tuple(owner for owner, _ in uses), **form,
        )(command)  # fmt: skip
    return command


class SourceOption(click.Option):
    """An option of some sources; the help of a `SourceCommand` shows it under their names."""

    def __init__(self, *arguments: Any, sources: tuple[str, ...], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sources = sources


class SourceCommand(click.Command):
    """A command whose help shows the options of each source after those of all."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under headings."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            heading = f"Options of {', '.join(param.sources)}" if isinstance(param, SourceOption) else "Options"
            if (record := param.get_help_record(ctx)) is not None:
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section("\n".join(textwrap.wrap(heading, formatter.width - 1))):
                formatter.write_dl(records)


def _option_help(uses: list[tuple[str, dataclasses.Field[Any]]]) -> str:
    """Return one text for an option of several sources: those that mean the same by it are named together."""
    owners: dict[str, list[str]] = {}
    for owner, field in uses:
        default = "" if field.default == "" or field.default is False else f"  [default: {field.default}]"
        text = str(field.metadata["help"])
        owners.setdefault(f"{text[0].upper()}{text[1:]}.{default}", []).append(owner)
    first, *others = owners.items()
    return "  ".join([first[0], *(f"For {', '.join(names)}: {text}" for text, names in others)])


def _option_type(annotation: Any) -> Any:
    if get_origin(annotation) is typing.Literal:
        return click.Choice(list(get_args(annotation)))
    return annotation


def make_source(name: str, options: dict[str, Any]) -> Source:
    """Return the source with the options given; an option of another source is an error."""
    given = {key: value for key, value in options.items() if value is not None}
    known = {field.name for field in dataclasses.fields(SOURCES[name])}
    for key in sorted(given.keys() - known):
        owners = [other for other, source in SOURCES.items() if key in {field.name for field in dataclasses.fields(source)}]
        raise click.UsageError(
            f'--{key.replace("_", "-")} is not an option of the source "{name}". Name its source: --source '
            f"{' or '.join(owners[:3])}"
        )
    try:
        return SOURCES[name](**given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def failures() -> Iterator[None]:
    """Turn what a user can mend into one message without a traceback."""
    try:
        yield
    except (DataError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except ImportError as error:  # of what opens URLs, and of other packages that few need
        if (package := missing_package(error)) is None or package.startswith("satmip_"):
            raise
        raise click.ClickException(f"{cause(error)}. Run: {install(package)}") from error
    except Exception as error:
        if not type(error).__module__.startswith("botocore."):
            raise
        raise click.ClickException(
            f"{error}\nS3 is reached by the usual variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL."
        ) from error


def limit_options(command: Command) -> Command:
    """`--max-unpacked`, `--max-scans` and `--max-windows`: what one file may take."""
    for name, default, text in (
        ("--max-windows", DEFAULT.windows, "Reject rasters with more windows than this on their grid."),
        ("--max-scans", DEFAULT.scans, "Reject JPEGs with more scans than this; each takes as long to decode as an image."),
        ("--max-unpacked", DEFAULT.unpacked, "Refuse members of archives, and tables, that unpack to more megabytes than this."),
    ):
        command = click.option(name, type=click.IntRange(1), default=default, show_default=True, help=text)(command)
    return command


def selection_options(command: Command) -> Command:
    """`--split`, `--category`, `--where`, `--exclude`, `--sample`: which samples are taken."""
    command = click.option(
        "--sample", type=click.IntRange(1), metavar="N",
        help="Keep N samples, drawn with --seed so that each class of each split keeps its share.",
    )(command)  # fmt: skip
    command = click.option(
        "--exclude", default="", metavar="FILE", help="Leave out the samples whose keys or paths stand in FILE, one per line."
    )(command)
    command = click.option(
        "--where", default="", metavar="CONDITION",
        help='Keep only samples that meet this condition, for example "cloud_cover < 30 and year >= 2015".',
    )(command)  # fmt: skip
    command = click.option("--category", "categories", multiple=True, metavar="CLASS", help="Keep only this class. Repeatable.")(
        command
    )
    command = split_option("--split", "splits", help="Keep only this split. Repeatable.", multiple=True)(command)
    return command


def engine_options(command: Command) -> Command:
    """`--engine` and `--ray-address`."""
    command = click.option(
        "--ray-address", help="Address of a Ray cluster: auto, or ray://host:10001.  [default: one started here]"
    )(command)  # fmt: skip
    return click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Run on processes of this machine, or on Ray.",
    )(command)
