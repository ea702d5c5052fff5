"""A run resolved before its first step: whether settings, shards and machine fit, and every number that follows from them."""

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch

from satmip_data.names import counted, without_secrets
from satmip_train.choices import Precision
from satmip_train.config import Settings
from satmip_train.data.captions import caption_reader, caption_statistics
from satmip_train.data.dataset import Dataset
from satmip_train.data.decoder import Decoder, column_numbers
from satmip_train.data.metadata_mask import MetadataMask
from satmip_train.data.order import Order
from satmip_train.distributed import Job, device_name
from satmip_train.errors import UsageError
from satmip_train.objectives import check_objective, read_by
from satmip_train.objectives.base import MetadataShape, Objective
from satmip_train.runs.checkpoint import versions


@dataclass(frozen=True)
class RunPlan:
    """Everything a run follows from, resolved before its first step."""

    settings: Settings
    dataset: Dataset
    job: Job
    order: Order
    decoder: Decoder
    """Decoder of the metadata; its keys are not yet those of an objective."""
    shape: MetadataShape
    empty_captions: int
    precision: Precision
    compiled: bool
    """Whether networks are compiled, and on a GPU the views."""
    total_steps: int
    """Of the schedule."""
    last_step: int
    """Last step of the run: the schedule's end or `max_steps`."""


def plan_run(settings: Settings, dataset: Dataset, job: Job) -> RunPlan:
    """Resolve a run before anything is computed.

    Raises:
        UsageError: settings and shards do not fit: a batch larger than the split or not divisible by the ranks, fields that the
            shards lack; there is no such objective; or settings do not fit one another on this machine.
    """
    try:
        check_objective(settings.objective)
    except ValueError as error:
        raise UsageError(str(error)) from error
    counts = tuple(shard.samples for shard in dataset.split(settings.split))
    _check_batch(settings, dataset, sum(counts), job.ranks)
    if job.first_on_machine:
        dataset.fetch(settings.split)
    job.wait()
    order = Order(counts, settings.batch_size, settings.seed, settings.shuffle_shards, job.rank, job.ranks)
    decoder, shape, empty = _metadata(settings, dataset)
    total = max(round(settings.epochs * order.steps_per_epoch), 1)
    last = min(total, settings.max_steps or total)
    precision, compiled = _precision(settings, job), _compiled(settings, job)
    return RunPlan(settings, dataset, job, order, decoder, shape, empty, precision, compiled, total, last)


def _check_batch(settings: Settings, dataset: Dataset, samples: int, ranks: int) -> None:
    """Check that the split gives each rank its share of a batch."""
    if samples < 2:
        raise UsageError(
            f'The split "{settings.split}" of {dataset.root} has {samples or "no"} sample, and two at least must be told apart. '
            "Use another --split or --shards."
        )
    if samples < settings.batch_size:
        fitting = 1 << (samples.bit_length() - 1)
        raise UsageError(
            f'The batch of {settings.batch_size} is larger than the split "{settings.split}", which has '
            f"{counted(samples, 'sample')}. Use --batch-size {fitting}."
        )
    if settings.batch_size % ranks:
        fewer = max(fewer for fewer in range(1, ranks) if settings.batch_size % fewer == 0)
        raise UsageError(
            f"The batch of {settings.batch_size} cannot be shared equally by {ranks} ranks. Run on {fewer}; a new run may also use "
            f"--batch-size {max(settings.batch_size // ranks, 1) * ranks}."
        )
    if dataset.size is None:
        raise UsageError(
            f"The chips of {dataset.root} have several sizes, and training needs one. Build shards with a fixed --size, such as "
            "224."
        )


def _metadata(settings: Settings, dataset: Dataset) -> tuple[Decoder, MetadataShape, int]:
    """Return what of the metadata is read, its shape, and the number of empty captions."""
    if settings.metadata_encoder == "tabular":
        columns = column_numbers(dataset, settings.fields)
        numeric, categorical = [dataset.numeric[i] for i in columns[0]], [dataset.categorical[i] for i in columns[1]]
        fields = tuple(column.field for column in numeric), tuple(column.field for column in categorical)
        hiding = _hiding(settings, tuple(dict.fromkeys([*fields[0], *fields[1]])), *fields)
        shape = MetadataShape(None, len(numeric), tuple(column.cardinality for column in categorical))
        _check_known(settings, dataset, any(column.known or column.values for column in (*numeric, *categorical)))
        return Decoder(frozenset(), None, *columns, hiding), shape, 0
    reader = caption_reader(dataset, settings.fields, settings.text_model)
    statistics = caption_statistics(dataset, settings.split, reader)
    _check_known(settings, dataset, statistics.empty < statistics.captions)
    decoder = Decoder(frozenset(), replace(reader, context=statistics.longest), hiding=_hiding(settings, reader.fields))
    return decoder, MetadataShape(statistics.longest, 0, ()), statistics.empty


def _check_known(settings: Settings, dataset: Dataset, known: bool) -> None:
    if "fields" in (read_by(settings.objective) or ()) and not known:
        raise UsageError(
            f"No sample of {dataset.root} knows any of the fields, so there is nothing to learn from. Use other --fields, or "
            "--objective simclr."
        )


def _hiding(
    settings: Settings, fields: tuple[str, ...], numeric: tuple[str, ...] = (), categorical: tuple[str, ...] = ()
) -> MetadataMask | None:
    return MetadataMask(settings.metadata_mask, fields, numeric, categorical) if settings.metadata_mask else None


def _precision(settings: Settings, job: Job) -> Precision:
    if settings.precision != "auto":
        return settings.precision
    if job.device.type != "cuda":
        return "fp32"
    # NOTE[DIFF] SLIP's code, on which the paper's is based, trains in fp16. bf16 rounds eight times as coarsely and needs no scaled
    # loss. Older GPUs (V100, T4) only emulate it, which is slow.
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _compiled(settings: Settings, job: Job) -> bool:
    by_default = job.device.type == "cuda" and find_spec("triton") is not None
    compiled = by_default if settings.compile is None else settings.compile
    if settings.activation_budget < 1 and not compiled:
        raise UsageError(
            f"--activation-budget {settings.activation_budget:g} works with compiled encoders only. Add --compile, or use "
            "--grad-checkpointing instead."
        )
    return compiled


def describe(plan: RunPlan, objective: Objective) -> dict[str, Any]:
    """Return everything that was resolved, as it is shown and saved before the first step."""
    return {
        "settings": plan.settings.model_dump(mode="json"),
        "dataset": {
            **describe_dataset(plan.dataset),
            "split": plan.settings.split,
            "samples": sum(plan.order.counts),
            "shards": len(plan.order.counts),
            "chip": plan.dataset.size,
        },
        "metadata": {**describe_metadata(plan), "empty_captions": plan.empty_captions, "read": sorted(objective.batch_keys)},
        "device": str(plan.job.device),
        "device_name": device_name(plan.job.device),
        "ranks": plan.job.ranks,
        "precision": plan.precision,
        "compiled": plan.compiled,
        "steps_per_epoch": plan.order.steps_per_epoch,
        "dropped_samples_per_epoch": plan.order.dropped,
        "total_steps": plan.total_steps,
        "last_step": plan.last_step,
        "peak_lr": plan.settings.peak_lr,
        "parameters": sum(parameter.numel() for parameter in objective.parameters()),
        "backbone_parameters": sum(parameter.numel() for parameter in objective.backbone.parameters()),
        "start": objective.start,
        "chance": objective.chance(),
        "versions": versions(),
    }


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return what a checkpoint keeps of the shards it learned from."""
    return {
        "root": without_secrets(dataset.root),
        "source": dataset.source,
        "licence": dataset.licence,
        "fingerprint": dataset.fingerprint,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }


def describe_metadata(plan: RunPlan) -> dict[str, Any]:
    """Return what a metadata encoder must be told of the metadata it reads: what its tokens, numbers and codes mean."""
    numeric = [plan.dataset.numeric[i] for i in plan.decoder.numeric]
    categorical = [plan.dataset.categorical[i] for i in plan.decoder.categorical]
    captions = plan.decoder.captions
    return {
        **asdict(plan.shape),
        "cardinalities": list(plan.shape.cardinalities),
        "fields": list(dict.fromkeys(column.field for column in (*numeric, *categorical)) if captions is None else captions.fields),
        "caption_style": None if captions is None else plan.dataset.caption_style,
        "numeric_columns": [{"name": c.name, "field": c.field, "mean": c.mean, "std": c.std} for c in numeric],
        "categorical_columns": [{"name": c.name, "field": c.field, "values": list(c.values)} for c in categorical],
    }
