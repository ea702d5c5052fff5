"""Length of a caption in tokens of CLIP's byte-pair encoding, without torch."""

import importlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec


@cache
def token_counter() -> Callable[[str], int] | None:
    """Return a function that counts the CLIP tokens of a text with its start and end; None where no tokenizer is installed."""
    if find_spec("instant_clip_tokenizer") is not None:
        encode = importlib.import_module("instant_clip_tokenizer").Tokenizer().encode
    elif find_spec("open_clip") is not None:
        encode = importlib.import_module("open_clip.tokenizer").SimpleTokenizer().encode
    else:
        return None
    return lambda text: len(encode(text)) + 2
