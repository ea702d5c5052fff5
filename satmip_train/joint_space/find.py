"""The way back: the pictures of a shard directory that suit a description best."""

from dataclasses import dataclass

import numpy as np

from satmip_data.records import Metadata
from satmip_train.joint_space import posterior
from satmip_train.joint_space.ask import Asker
from satmip_train.joint_space.description import Description
from satmip_train.joint_space.posterior import Vectors
from satmip_train.joint_space.references import Collection

DRAWN = 512
"""References that are made to fit the description."""


@dataclass(frozen=True)
class Found:
    """A picture that suits a description."""

    number: int
    """Of the picture."""
    key: str
    times: float
    """How many times as likely the description is for this picture as without one."""
    fits: bool
    """Whether its record says so too."""
    record: Metadata


def find(asker: Asker, pictures: Collection, description: Description, count: int) -> list[Found]:
    """Return the pictures that suit a description best, the best first; their records are not looked at.

    References drawn evenly are made to fit (`Description.fulfilled`), so all that the description leaves open is summed out.
    """
    known = asker.references
    drawn = [known.records[i] for i in np.linspace(0, len(known) - 1, min(DRAWN, len(known))).round().astype(int)]
    wanted: Vectors = asker.encoder.encode_metadata(description.fulfilled(drawn, known.records), joint=True)
    scores = np.concatenate(
        [
            _log_mean(wanted, pictures.vectors[part], asker.calibration.temperature)
            - _log_mean(known.vectors, pictures.vectors[part], asker.calibration.temperature)
            for part in posterior.chunks(len(pictures))
        ]
    )
    best = np.argsort(-scores, kind="stable")[:count]
    fits = description.fits([pictures.records[i] for i in best])
    return [
        Found(int(i), pictures.keys[i], float(np.exp(scores[i])), bool(fit), pictures.records[i])
        for i, fit in zip(best, fits, strict=True)
    ]


def _log_mean(records: Vectors, pictures: Vectors, temperature: float) -> Vectors:
    """Return the logarithm of the mean likelihood of records, but for a factor of the picture. Shape: (N, D), (B, D) -> (B,)."""
    scaled = posterior.similarities(records, pictures) / np.float32(temperature)
    highest = scaled.max(axis=0)
    return np.asarray(highest + np.log(np.exp(scaled - highest).mean(axis=0)), np.float32)
