"""helpers.geo_batches"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.ranks import SAMPLES
from helpers.tiny_networks import SHAPE, tiny_settings
from helpers.training_runs import TINY
from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.places import Places
from satmip_train.distributed import Job
from satmip_train.objectives import build_objective
from satmip_train.objectives.base import Objective
from satmip_train.training.plan import RunPlan, plan_run

# Samples 0 and 5 stand on different ranks, and so do the unknown locations' numbers: two and one.
PLACE = torch.tensor([7, 3, 3, 9, 1, 7, 7, 2])
LOCATION = torch.tensor([[0, 0], [math.nan] * 2, [120, 30], [math.nan] * 2, [-90, 10], [1, 1], [121, 29], [math.nan] * 2])


def build(variant: dict[str, Any]) -> Objective:
    torch.manual_seed(0)
    objective = build_objective(tiny_settings(**variant), SHAPE)
    objective.fit(lambda: Places(np.array([0, SAMPLES]), PLACE.numpy(), LOCATION.double().numpy()))
    return objective


# Runs


def plan_of(shards: Path, **changes: Any) -> RunPlan:
    return plan_run(Settings(**{**TINY, "geo_clusters": 4, **changes}), open_dataset(shards), Job(torch.device("cpu")))
