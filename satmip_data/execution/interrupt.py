"""A group of commands that ends as a shell expects of one that was interrupted."""

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import click

from satmip_data.names import without_secrets


class Commands(click.Group):
    """Ends with 128 + SIGINT at Ctrl-C, where click would end with 1, as for an error; a second Ctrl-C waits for nothing."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was typed."""
        before = signal.getsignal(signal.SIGINT)
        # Ctrl-C reaches the main thread, and Python lets no other one say what it does.
        sys.excepthook = _show if sys.excepthook is sys.__excepthook__ else sys.excepthook
        ours = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
        if ours:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            return super().invoke(ctx)
        except click.ClickException as error:  # whoever made it need not think of the secrets of URLs
            vars(error)["message"] = without_secrets(error.message)
            raise
        except KeyboardInterrupt as error:
            click.echo(" ".join(("Interrupted.", *error.args)), err=True)
            ctx.exit(128 + signal.SIGINT)
        finally:
            if ours and signal.getsignal(signal.SIGINT) is _interrupt:
                signal.signal(signal.SIGINT, before)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write a traceback as Python does, without the secrets of URLs."""
    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))


def _interrupt(_: int, __: FrameType | None) -> None:
    # Workers are waited for, so that none writes beside the next run; who interrupts that again would wait for ever.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


@contextmanager
def kept() -> Iterator[None]:
    """Have an interruption of the block say that what was finished in it is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("What is finished is kept: run the same command again to go on.") from error
