"""The parameters that weight decay leaves alone."""

from torch import nn


def undecayed(module: nn.Module, wd_policy: str) -> frozenset[str]:
    """Return the names of the parameters that weight decay leaves alone.

    "slip": those with fewer than two dimensions and those whose name holds "bias", "ln" or "bn". Positions, CLS token and
    token embeddings decay. "timm": those with fewer than two dimensions, biases, and what a module's own `no_weight_decay`
    names (positions, CLS token, the tokenizer of the FT-Transformer).
    """
    parameters = dict(module.named_parameters())
    flat = {name for name, parameter in parameters.items() if parameter.ndim < 2}
    if wd_policy == "slip":
        return frozenset(flat | {name for name in parameters if any(word in name for word in ("bias", "ln", "bn"))})
    exempt = {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name in (part.no_weight_decay() if hasattr(part, "no_weight_decay") else ())
    }
    return frozenset(flat | {name for name in parameters if name.endswith(".bias") or name in exempt})
