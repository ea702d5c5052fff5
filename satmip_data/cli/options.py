"""Options and arguments that several commands share."""

import dataclasses
import os
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, get_args, get_origin

import click

from satmip_data.errors import DataError, cause, install, missing_package
from satmip_data.imagery.decoders import FORMER
from satmip_data.metadata import fields
from satmip_data.metadata.captions import STYLES
from satmip_data.sources import SOURCES
from satmip_data.sources.base import Source
from satmip_data.storage.limits import DEFAULT

DEFAULT_SHARDS = "out/shards"
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
    """A comma-separated list of fields, as "gsd,time,loc"."""

    name = "FIELDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names the list stands for."""
        if isinstance(value, tuple):
            return value
        try:
            return fields.parse_fields(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def workers_option(command: Command) -> Command:
    """`--workers`, with one meaning everywhere."""
    # Of a job that a scheduler binds to some cores, only these; not every system tells them.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    option = click.option("--workers", type=click.IntRange(1), default=count, show_default="all cores", help="Processes.")
    return option(command)


def caption_options(command: Command) -> Command:
    """`--fields` and `--style`, the same for `build` and `caption`."""
    command = click.option(
        "--style", type=click.Choice(list(STYLES)), default="key-value", show_default=True, help="How captions are written."
    )(command)
    return click.option(
        "--fields", "caption_fields", type=FieldList(), default="gsd,time,loc", show_default=True,
        help="Fields of the captions, by name or alias (see: satmip-data fields).",
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
        command = click.option(f"--{name.replace('_', '-')}", name, default=None, help=_option_help(uses), **form)(command)
    return command


def _option_help(uses: list[tuple[str, dataclasses.Field[Any]]]) -> str:
    """Return one text for an option of several sources: those that mean the same by it are named together."""
    owners: dict[str, list[str]] = {}
    for owner, field in uses:
        default = {"": "none", False: "off"}.get(field.default, field.default)
        owners.setdefault(f"default {default}] {field.metadata['help']}", []).append(owner)
    return "; ".join(f"[{', '.join(names)}, {text}" for text, names in owners.items())


def _option_type(annotation: Any) -> Any:
    if get_origin(annotation) is typing.Literal:
        return click.Choice(list(get_args(annotation)))
    return annotation


def make_source(name: str, options: dict[str, Any]) -> Source:
    """Return the source with the options given; an option of another source is an error."""
    given = {key: value for key, value in options.items() if value is not None}
    known = {field.name for field in dataclasses.fields(SOURCES[name])}
    for key in sorted(given.keys() - known):
        raise click.UsageError(f"--{key.replace('_', '-')} is not an option of the source {name!r}; name another with --source.")
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
        ("--max-windows", DEFAULT.windows, "Reject rasters with more windows on the grid."),
        ("--max-scans", DEFAULT.scans, "Reject JPEGs with more scans; each takes as long as a whole image."),
        ("--max-unpacked", DEFAULT.unpacked, "Megabytes that a member of an archive, or a compressed table, may unpack to."),
    ):
        command = click.option(name, type=click.IntRange(1), default=default, show_default=True, help=text)(command)
    return command


def selection_options(command: Command) -> Command:
    """`--split`, `--category`, `--where`, `--exclude`, `--sample`: which samples are taken."""
    command = click.option(
        "--sample", type=click.IntRange(1), metavar="N",
        help="Take N samples, drawn from --seed so that each class of each split keeps its share.",
    )(command)  # fmt: skip
    command = click.option(
        "--exclude", default="", metavar="FILE", help="Leave out the samples whose keys or paths FILE lists, one a line."
    )(command)
    command = click.option(
        "--where", default="", metavar="CONDITION",
        help='Take the samples for which it holds, as "cloud_cover < 30 and year >= 2015": columns of the index.',
    )(command)  # fmt: skip
    command = click.option("--category", "categories", multiple=True, help="Take this class; may be given several times.")(command)
    return click.option("--split", "splits", multiple=True, help="Take this split; may be given several times.")(command)


def engine_options(command: Command) -> Command:
    """`--engine` and `--ray-address`."""
    command = click.option(
        "--ray-address", help="Of a Ray cluster, as auto or ray://host:10001; without it one is started here."
    )(command)  # fmt: skip
    return click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Processes here, or Ray."
    )(command)
