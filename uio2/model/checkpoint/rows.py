"""What the name tables of all parts are made of."""

from __future__ import annotations

# Our name -> T5X name.
Rows = dict[str, str]
# Our name of a stacked parameter -> T5X name with {i} for the layer, and the number of layers.
Stacks = dict[str, tuple[str, int]]


def attention_rows(ours: str, theirs: str, *, norms: bool, bias: bool = False) -> Rows:
    """The four projections and, with `norms`, the scales of the query-key norm."""
    parts = {
        f"{ours}/{p}/{leaf}": f"{theirs}/{p}/{leaf}"
        for p in ("query", "key", "value", "out")
        for leaf in (("kernel", "bias") if bias else ("kernel",))
    }
    if norms:
        parts |= {f"{ours}/{p}_norm/scale": f"{theirs}/{p}_norm/scale" for p in ("query", "key")}
    return parts


def norm_rows(ours: str, theirs: str) -> Rows:
    """A norm with scale and bias."""
    return {f"{ours}/{leaf}": f"{theirs}/{leaf}" for leaf in ("scale", "bias")}


def dense_rows(ours: str, theirs: str) -> Rows:
    """A projection with bias."""
    return {f"{ours}/{leaf}": f"{theirs}/{leaf}" for leaf in ("kernel", "bias")}
