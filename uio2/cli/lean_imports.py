"""Stage processes import TensorFlow without what its Keras could use.

TensorFlow imports Keras whole, and Keras takes scikit-learn, pandas and Matplotlib along wherever they are installed,
for helpers that no stage calls: 4.3 of the 14.3 s of CPU until a feed can be made. Keras does without them, so while it
is being imported they are as if not installed; whoever else asks for them gets them.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

KERAS = "keras"
EXTRAS = ("sklearn", "pandas", "matplotlib")


class _NoExtras(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in EXTRAS and _is_being_imported(KERAS):
            raise ModuleNotFoundError(f"{fullname} is kept from {KERAS}, see {__name__}", name=fullname)
        return None


def _is_being_imported(package: str) -> bool:
    spec = getattr(sys.modules.get(package), "__spec__", None)
    return getattr(spec, "_initializing", False)


def keep_extras_from_keras() -> None:
    """For the rest of this process; nothing changes where Keras is imported already."""
    sys.meta_path.insert(0, _NoExtras())
