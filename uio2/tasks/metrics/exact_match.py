"""Case-insensitive exact match; nothing else is forgiven, a trailing blank counts."""

from __future__ import annotations

from collections.abc import Sequence


def exact_match(prediction: str, *, targets: str | Sequence[str]) -> float:
    """1.0 when the prediction equals the target, or any of several, ignoring case."""
    options = [targets] if isinstance(targets, str) else targets
    return float(prediction.lower() in {option.lower() for option in options})
