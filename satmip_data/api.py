"""Builds, for use from Python."""

import dataclasses
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from satmip_data.execution.progress import Show, no_show
from satmip_data.geometry import Context, Fit, GsdMode
from satmip_data.imagery import decoders
from satmip_data.metadata.fields import DEFAULT_FIELDS, expand_fields
from satmip_data.pipeline import build as pipeline
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.selection import Selection
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.reading import Shards, open_shards
from satmip_data.sources import SOURCES


class BuildOptions(TypedDict, total=False):
    """Options of a build, by the names of `satmip-data build --help`."""

    size: int | Literal["keep"]
    context: Context
    fit: Fit
    gsd: GsdMode
    fields: Sequence[str]
    style: str
    min_side: int
    samples_per_shard: int
    quality: int
    subsampling: str
    max_pixels: int
    seed: int
    splits: Sequence[str]
    categories: Sequence[str]
    where: str
    exclude: Collection[str]
    sample: int
    decoder: str
    limit: int
    max_rejects: int
    retry_rejects: bool
    keep_damaged: bool
    workers: int
    # Of some kinds of archive:
    product: str
    apply_scale: bool
    boxes: str
    metadata: str
    false_detections: str
    flagged: str
    tiff_stretch: str
    listing: str
    tile: int
    label: str
    val_fraction: float
    max_residual: float
    shares: str
    block_degrees: float
    split_file: str
    split_seed: int
    bands: str
    stretch: str
    limits: str
    allow_outside: bool
    table: str
    images: str
    columns: str
    extra_columns: str
    time_tag: str
    time_pattern: str
    asset: str
    nomenclature: str


def build(
    source: str | Path, out: str | Path, *, kind: str = "fmow", show: Show = no_show, **options: Unpack[BuildOptions]
) -> Shards:
    """Build shards from an archive, or finish a build that was stopped; return them open.

    The shards are those of `satmip-data build` with the same options, byte for byte. A finished build is opened and nothing is
    read again.

    Args:
        source: the archive, a folder or any fsspec URL
        out: where shards are written, a folder or any fsspec URL
        kind: of the archive, as --source of the command: fmow, xbd, geotiff, stac, table, imagefolder ...
        show: is told of the progress
        options: see `BuildOptions` and `satmip-data build --help`; with more than one of `workers`, a script must keep its work
            below `if __name__ == "__main__":`, as processes are started that import it

    Raises:
        TypeError: an option is unknown, or of another kind of archive.
        ValueError: a value is none that the option can have.
        BuildError: there is nothing to build, or the folder holds something else.
    """
    request = _request(str(source), str(out), kind, dict(options))
    if request.decoder not in decoders.DECODERS:
        raise ValueError(f'Unknown decoder "{request.decoder}". There are {", ".join(decoders.DECODERS)}.')
    decoders.check(request.decoder)
    pipeline.build(request, show)
    return open_shards(out)


def _request(root: str, out: str, kind: str, options: dict[str, Any]) -> BuildRequest:
    if kind not in SOURCES:
        near = get_close_matches(kind, SOURCES, 1)
        raise ValueError(f'Unknown kind of archive "{kind}". ' + (f'Did you mean "{near[0]}"?' if near else "See docs/sources.md."))

    def take(owner: Any) -> dict[str, Any]:
        return {f.name: options.pop(f.name) for f in dataclasses.fields(owner) if f.name in options}

    size = options.pop("size", None)
    fields = tuple(options.pop("fields", DEFAULT_FIELDS))
    source = SOURCES[kind](**take(SOURCES[kind]))
    chip = source.default_size if size is None else None if size == "keep" else size
    settings = BuildSettings(size=chip, fields=expand_fields(fields), **take(BuildSettings))
    chosen = Selection(
        tuple(options.pop("splits", ())),
        tuple(options.pop("categories", ())),
        options.pop("where", ""),
        frozenset(options.pop("exclude", ())),
        options.pop("sample", None),
    )
    ways = {name: options.pop(name) for name in ("workers", "limit", "max_rejects", "retry_rejects", "decoder") if name in options}
    if options:
        name = min(options)
        known = name in BuildOptions.__annotations__
        near = get_close_matches(name, BuildOptions.__annotations__, 1)
        advice = (
            f"It is one of another kind than {kind}."
            if known
            else f'Did you mean "{near[0]}"?'
            if near
            else "See satmip-data build --help."
        )
        raise TypeError(f'Unknown option "{name}". {advice}')
    return BuildRequest(source, root, out, settings, selection=chosen, **ways)
