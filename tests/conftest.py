"""What holds for every test."""

import pytest
from hypothesis import settings

# The same examples in every run, and no failure because a machine is busy.
settings.register_profile("satmip", deadline=None, derandomize=True)
settings.load_profile("satmip")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Golden records are written anew on request alone, and the tests that do so fail."""
    parser.addoption("--update-golden", action="store_true", help="write golden records anew, and fail")
