"""The small world of the evaluation tests serves training as well."""

from tests.evaluate.conftest import world

__all__ = ["world"]
