"""One batch through everything, to learn what a run will cost before it starts."""

import time
from dataclasses import dataclass, replace

from satmip_train.training import batches, speed
from satmip_train.training.batches import DataPath
from satmip_train.training.meter import peak_bytes
from satmip_train.training.plan import RunPlan
from satmip_train.training.state import build_state
from satmip_train.training.step import Step, batch_keys
from satmip_train.training.step_memory import check_memory


@dataclass(frozen=True)
class Estimate:
    """Cost of a few steps."""

    first_loss: float
    chance: float
    load_seconds: float
    """To make one batch, by this process alone."""
    step_seconds: float
    peak_bytes: int
    """Of the GPU's memory, or of this process on a CPU; without a resident split."""
    data: DataPath
    """Source of the batches of the run."""

    def seconds(self, workers: int) -> float:
        """Return the time a step takes, or its batch with so many loader processes where that is longer."""
        return self.step_seconds if self.data.resident else max(self.step_seconds, self.load_seconds / max(workers, 1))


def dry_run(plan: RunPlan, steps: int = 2) -> Estimate:
    """Take one batch through everything, `steps` times after a first one to warm up; nothing is written.

    Raises:
        UsageError: settings, networks and shards do not fit one another, or a step does not fit into memory.
    """
    state = build_state(plan)
    data = batches.choose(plan, 0, check_memory(plan))
    settings = plan.settings.model_copy(update={"workers": 0})
    plan = replace(plan, settings=settings, total_steps=max(plan.total_steps, steps + 1))
    start = time.perf_counter()
    source = batches.batches(plan, batch_keys(state), range(1), DataPath(False, "a single batch"), lambda samples: None)
    batch = next(iter(source))
    load = time.perf_counter() - start
    step = Step(plan, state)
    with speed.compiler_errors(), speed.memory_errors():
        first, chance = float(step(batch)["loss"]), state.objective.chance()["loss"]
        start = time.perf_counter()
        for _ in range(steps):
            loss = step(batch)["loss"]
        float(loss)
        seconds = (time.perf_counter() - start) / steps
    return Estimate(first, chance, load, seconds, peak_bytes(plan.job), data)
