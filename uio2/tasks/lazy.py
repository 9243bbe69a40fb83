"""TensorFlow for the task families, imported on first use.

What tasks exist, what they need and which prompts they use is read by the command line and by recipes; that must not
cost the seconds TensorFlow takes to import.
"""

from __future__ import annotations

from etils import epy

with epy.lazy_imports():
    import tensorflow as tf

__all__ = ["tf"]
