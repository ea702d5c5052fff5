"""The projection heads, from features to embeddings (supplement B)."""

from collections import OrderedDict

from torch import nn


def linear_projection(width: int, embed_dim: int, bias: bool = False) -> nn.Linear:
    """Return the projection head of the metadata-image loss, of deviation width^-0.5, its bias 0: (B, width) -> (B, embed_dim)."""
    projection = nn.Linear(width, embed_dim, bias=bias)
    nn.init.normal_(projection.weight, std=width**-0.5)
    if bias:
        nn.init.zeros_(projection.bias)
    return projection


def moco_head(width: int, hidden: int, ssl_dim: int) -> nn.Sequential:
    """Return the projection head of MoCo-v2, a 2-layer MLP without batch norms: (B, width) -> (B, ssl_dim)."""
    return nn.Sequential(
        OrderedDict(linear1=nn.Linear(width, hidden), relu1=nn.ReLU(), linear2=nn.Linear(hidden, ssl_dim)),
    )


def ssl_head(width: int, hidden: int, ssl_dim: int) -> nn.Sequential:
    """Return the projection head of the image-image loss, a 3-layer MLP: (B, width) -> (B, ssl_dim).

    NOTE[DIFF] the supplement writes "3 4096-dim hidden layers", the main text "3-layer MLP"; the code of SLIP, which both
    follow, has three linear layers, hence two hidden ones.
    """
    return nn.Sequential(
        OrderedDict(
            linear1=nn.Linear(width, hidden),
            bn1=nn.BatchNorm1d(hidden),
            relu1=nn.ReLU(),
            linear2=nn.Linear(hidden, hidden),
            bn2=nn.BatchNorm1d(hidden),
            relu2=nn.ReLU(),
            linear3=nn.Linear(hidden, ssl_dim),
        )
    )
