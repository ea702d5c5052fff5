"""The Triton kernels of `packed_attention`: one program for each head of each image."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
FORWARD = [triton.Config({"ROWS": rows}, num_warps=warps, num_stages=1) for rows, warps in ((64, 4), (128, 8))]
BACKWARD = [triton.Config({"COLUMNS": n}, num_warps=warps, num_stages=1) for n, warps in ((16, 4), (16, 8), (64, 8))]
"""The first call takes the fastest. Compiled for Hopper, none spills registers at the paper's shape, 197 tokens and heads of 32."""


@triton.autotune(FORWARD, key=["TOKENS", "HEADS", "WIDTH"])
@triton.jit
def packed_attention_forward(  # noqa: PLR0913
    qkv, out, sums, scale, TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Attend for one head of one image, all keys at once, `ROWS` queries at a time.

    Shape: qkv (B, TOKENS, 3, HEADS, WIDTH); out (B, TOKENS, HEADS, WIDTH); sums (B, HEADS, TOKENS), log2 of the exponentials' sums.
    `COLUMNS` is a power of 2 that the keys fit into.
    """
    image, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    qkv += image * (TOKENS * 3 * HEADS * WIDTH) + head * WIDTH
    out += image * (TOKENS * HEADS * WIDTH) + head * WIDTH
    sums += tl.program_id(0).to(tl.int64) * TOKENS
    column, lane = tl.arange(0, COLUMNS), tl.arange(0, WIDTH)
    keys = qkv + HEADS * WIDTH + column[:, None] * (3 * HEADS * WIDTH) + lane[None, :]
    k = tl.load(keys, mask=(column < TOKENS)[:, None], other=0.0)
    v = tl.load(keys + HEADS * WIDTH, mask=(column < TOKENS)[:, None], other=0.0)
    for first in range(0, TOKENS, ROWS):
        row = first + tl.arange(0, ROWS)
        q = tl.load(qkv + row[:, None] * (3 * HEADS * WIDTH) + lane[None, :], mask=(row < TOKENS)[:, None], other=0.0)
        scores = tl.where((column < TOKENS)[None, :], tl.dot(q, tl.trans(k)), float("-inf"))
        top = tl.max(scores, 1) * (scale * LOG2_E)
        weight = tl.exp2(scores * (scale * LOG2_E) - top[:, None])
        total = tl.sum(weight, 1)
        read = tl.dot(weight.to(v.dtype), v) / total[:, None]
        tl.store(out + row[:, None] * (HEADS * WIDTH) + lane[None, :], read.to(v.dtype), mask=(row < TOKENS)[:, None])
        tl.store(sums + row, top + tl.log2(total), mask=row < TOKENS)


@triton.autotune(BACKWARD, key=["TOKENS", "HEADS", "WIDTH"])
@triton.jit
def packed_attention_backward(  # noqa: PLR0913
    gradient, qkv, out, sums, gqkv, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Carry a gradient back through one head of one image, all queries at once, `COLUMNS` keys at a time.

    Shape: as in `packed_attention_forward`; gradient as out, gqkv as qkv. `ROWS` is a power of 2 that the queries fit into.
    """
    image, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    qkv += image * (TOKENS * 3 * HEADS * WIDTH) + head * WIDTH
    gqkv += image * (TOKENS * 3 * HEADS * WIDTH) + head * WIDTH
    gradient += image * (TOKENS * HEADS * WIDTH) + head * WIDTH
    out += image * (TOKENS * HEADS * WIDTH) + head * WIDTH
    sums += tl.program_id(0).to(tl.int64) * TOKENS
    row, lane = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    queries = row[:, None] * (3 * HEADS * WIDTH) + lane[None, :]
    reads = row[:, None] * (HEADS * WIDTH) + lane[None, :]
    q = tl.load(qkv + queries, mask=(row < TOKENS)[:, None], other=0.0)
    go = tl.load(gradient + reads, mask=(row < TOKENS)[:, None], other=0.0)
    read = tl.load(out + reads, mask=(row < TOKENS)[:, None], other=0.0)
    # A weight's gradient less the mean of those of its row is that of the scores, and that mean is this product.
    mean = tl.sum(go.to(tl.float32) * read.to(tl.float32), 1)
    total = tl.load(sums + row, mask=row < TOKENS, other=float("inf"))
    gq = tl.zeros((ROWS, WIDTH), tl.float32)
    for first in range(0, TOKENS, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        keys = HEADS * WIDTH + column[:, None] * (3 * HEADS * WIDTH) + lane[None, :]
        k = tl.load(qkv + keys, mask=(column < TOKENS)[:, None], other=0.0)
        v = tl.load(qkv + keys + HEADS * WIDTH, mask=(column < TOKENS)[:, None], other=0.0)
        weight = tl.exp2(tl.dot(q, tl.trans(k)) * (scale * LOG2_E) - total[:, None])
        gv = tl.dot(tl.trans(weight.to(k.dtype)), go)
        gs = (weight * (tl.dot(go, tl.trans(v)) - mean[:, None])).to(k.dtype)
        gk = tl.dot(tl.trans(gs), q) * scale
        gq = tl.dot(gs, k, gq)
        tl.store(gqkv + keys, gk.to(k.dtype), mask=(column < TOKENS)[:, None])
        tl.store(gqkv + keys + HEADS * WIDTH, gv.to(k.dtype), mask=(column < TOKENS)[:, None])
    tl.store(gqkv + queries, (gq * scale).to(q.dtype), mask=(row < TOKENS)[:, None])
