"""Shard directories behind a URL: what to do where one cannot be reached."""

from collections.abc import Iterator
from contextlib import contextmanager

from satmip_data.errors import cause, install, missing_package
from satmip_train.errors import UsageError


def is_remote(root: str) -> bool:
    """Whether a shard directory is named by a URL and not by a local path."""
    return "://" in root


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Say what to do where a URL cannot be read; the errors of a local path stay as they are.

    Raises:
        UsageError: fsspec does not know such URLs or lacks a package for them, or what they name cannot be reached.
    """
    try:
        yield
    except UsageError:
        raise
    except ImportError as error:  # of what opens such URLs
        if (package := missing_package(error)) is None:
            raise
        raise UsageError(f"Cannot open {url}: {cause(error)}. Run: {install(package)}") from error
    except Exception as error:
        known = isinstance(error, OSError | ValueError) or type(error).__module__.startswith(("botocore.", "aiohttp."))
        if not (known and is_remote(url)):
            raise
        raise UsageError(
            f"Cannot reach {url}: {cause(error)}. Check the URL; S3 is reached by the usual variables AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL."
        ) from error
