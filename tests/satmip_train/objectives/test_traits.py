"""What objectives are, for those who load no networks, is what the objectives themselves say."""

import pytest

from satmip_train.objectives import OBJECTIVES, read_by
from satmip_train.traits import traits_of


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_traits_are_those_of_the_objective(objective: str) -> None:
    reads = read_by(objective) or frozenset()
    assert traits_of(objective).learns_from_metadata == ("metadata_encoder" in reads)
    assert traits_of(objective).compares_views == ("temperature" in reads)
