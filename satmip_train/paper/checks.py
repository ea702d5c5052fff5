"""Checks, before anything is trained, that shards hold what the evaluations of a table need."""

from collections.abc import Iterator, Sequence

from satmip_train.data.dataset import Dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation_sets import EvaluationSet


def paper_split(evaluation: EvaluationSet, dataset: Dataset) -> str:
    """Return the split that the paper tests on, or what stands in for it.

    Raises:
        UsageError: there is neither.
    """
    found = next((split for split in evaluation.test_splits if dataset.splits.get(split)), None)
    if found is None:
        raise UsageError(
            f"{evaluation.title} is tested on the split {' or '.join(evaluation.test_splits)}, and {dataset.root} has "
            f"{', '.join(sorted(dataset.splits))} only. Build it with such a split, or leave out --eval-shards {evaluation.id}"
        )
    return found


def check_shards(evaluation: EvaluationSet, dataset: Dataset, larger: str) -> Iterator[str]:
    """Give notes of what is not as in the paper.

    Raises:
        UsageError: the shards have no classes.
    """
    if not dataset.classes:
        raise UsageError(
            f"A probe needs labels, and the shards in {dataset.root} have no classes. Build them from a source with classes, or "
            f"leave out --eval-shards {evaluation.id}"
        )
    if larger == "keep" and dataset.size is None:
        yield (
            f"{evaluation.title}: the chips in {dataset.root} have different sizes, so all are resized to a view, where the paper "
            "keeps the size of larger images. Build them with --size."
        )


def check_metadata(evaluation: EvaluationSet, dataset: Dataset, fields: Sequence[str]) -> Iterator[str]:
    """Give notes of metadata that no sample knows.

    Raises:
        UsageError: the shards do not hold fields that the training learns from.
    """
    columns = (*dataset.numeric, *dataset.categorical)
    if missing := [name for name in fields if name not in {column.field for column in columns}]:
        raise UsageError(
            f"The shards in {dataset.root} have no columns of {', '.join(missing)}, which {evaluation.title} is measured with. "
            "Build them again with this version of satmip-data"
        )
    known = {column.field for column in columns if column.known or column.values}
    if unknown := [name for name in fields if name not in known]:
        yield f"{evaluation.title}: no sample in {dataset.root} knows its {', '.join(unknown)}; metadata are measured without."
