"""Code blocks of the docs, and how the tests run them."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from satmip_data.cli.commands import main as data
from satmip_train.cli.evaluate import main as evaluate
from satmip_train.cli.train import main as train

ROOT = Path(__file__).parents[2]
COMMANDS = {"satmip-data": data, "satmip-train": train, "satmip-eval": evaluate}
OURS = r"(?:satmip-(?:data|train|eval)|(?:srun )?torchrun .*-m satmip_train) .*"
# A page marks a block that cannot run in the tests, and says why.
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>bash|python)\n(?P<code>.*?)^```", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block of `bash` or `python`; `reason` says why it does not run, "" where it does."""

    language: str
    code: str
    reason: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["code"], match["reason"] or "") for match in found]


def joined(code: str) -> str:
    """Return code with lines that a backslash continues on one line."""
    return re.sub(r"\\\n\s*", " ", code)


def command_lines(text: str) -> Iterator[list[str]]:
    """Return the words of every line of a page's code that runs one of our commands."""
    for line in re.findall(rf"^(?:    +)?({OURS})$", joined(text), re.M):
        words = shlex.split(line, comments=True)
        yield ["satmip-train", *words[words.index("satmip_train") + 1 :]] if "satmip_train" in words else words


def run_blocks(page: Path, smaller: Mapping[str, str]) -> None:
    """Run a page's blocks one after the other in the working directory, each command with the options that make it small.

    Args:
        smaller: options to append, by the beginning of a command
    """
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.reason:
            continue
        if block.language == "python":
            exec(block.code, names)
            continue
        for words in (shlex.split(line, comments=True) for line in joined(block.code).splitlines()):
            if words:
                run(words, smaller)


def run(words: list[str], smaller: Mapping[str, str]) -> None:
    """Run one command in this process; any other program than ours is an error of the page."""
    added = [option for start, options in smaller.items() if " ".join(words).startswith(start) for option in options.split()]
    result = CliRunner().invoke(COMMANDS[words[0]], [*words[1:], *added], catch_exceptions=False)
    assert result.exit_code == 0, f"{shlex.join(words)}: {result.output}"
