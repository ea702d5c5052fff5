"""Judges: a network with the vectors of the pictures whose records it may judge."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from satmip_train.data.dataset import Dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import image_features, load_model
from satmip_train.joint_space.archive import Entry, part_of
from satmip_train.joint_space.audit import Encode, Judge
from satmip_train.joint_space.provenance import FOLDS, Division
from satmip_train.runs.export import load_projections


def make_judge(run: Path, dataset: Dataset, entries: Sequence[Entry], encode: Encode, running: Running) -> Judge:
    """Return a network as the judge of some samples; features of their pictures are kept with the run.

    Args:
        run: folder of a finished run
        dataset: that the samples are of
        entries: that it may judge
        encode: its vectors of records, see `satmip_train.Encoder.encode_metadata`
        running: how it computes

    Raises:
        UsageError: it did not learn from metadata, or a chip cannot be read.
    """
    model, projections = load_model(run, "both"), load_projections(run)
    vectors: dict[str, np.ndarray] = {}
    for split in dict.fromkeys(entry.split for entry in entries):
        own = [entry for entry in entries if entry.split == split]
        part = dataset if len(own) == dataset.splits[split] else part_of(dataset, own, split)
        found = image_features(model, part, split, running)
        vectors |= zip(found.keys.tolist(), found.vectors, strict=True)
    stacked = torch.from_numpy(np.stack([vectors[entry.key] for entry in entries]))
    images = F.normalize(projections.image(stacked).float(), dim=1).numpy()
    return Judge(tuple(entries), images, encode, projections.logit_scale)


def check_any(division: Division, run: Path, splits: Sequence[str]) -> None:
    """Check that a network may judge something.

    Raises:
        UsageError: it may not; the message says why.
    """
    if not division.judged:
        raise UsageError(
            f"{run} may judge no record of {', '.join(splits)}: it has trained on {len(division.trained):,} of these samples, and "
            f"on others of the places of {len(division.places):,}. Use a --split or shards that it has not seen. {FOLDS}."
        )
