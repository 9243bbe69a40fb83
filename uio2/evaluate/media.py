"""Files of answers that are no text: pictures as PNG, spectrograms as `.npz` with `log_mel` [256 time, 128 mel].

Each is there whole or not at all, and equal answers give equal bytes (the archive holds no date).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

SUFFIXES = {"image": ".png", "audio": ".npz"}


def write_media(path: Path, values: Float[np.ndarray, "*s"]) -> None:
    """Writes a picture (float [h, w, 3] in 0..1) or a log-mel spectrogram (float [t, f]), by the path's suffix."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as f:
        if path.suffix == SUFFIXES["image"]:
            from PIL import Image

            Image.fromarray(np.rint(np.asarray(values) * 255).astype(np.uint8)).save(f, "PNG")
        else:
            np.savez(f, log_mel=np.asarray(values, np.float32))
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


def read_log_mel(path: Path) -> Float[np.ndarray, "t f"]:
    """The spectrogram of a file."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["log_mel"]
