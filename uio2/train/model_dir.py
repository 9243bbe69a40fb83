"""MODEL_DIR, where people look for what a training made: the finished checkpoint with its tokenizer, its history, and
the configuration it ran with.

    operative_config.gin          written first; a run of another recipe is refused
    checkpoint_<steps>/           config.json, params/, tokenizer.model
    history.jsonl, artifact.json  the losses; the artifact of the store that this is a copy of

The store keeps the artifact; large files are hard links to it where the file system allows that, copies elsewhere.
What a stopped run has so far is in the store too: the same command goes on from there.
"""

from __future__ import annotations

import difflib
import os
import shutil
from pathlib import Path

from uio2.pipeline.artifact import RECORD, Artifact
from uio2.pipeline.atomic import write_text
from uio2.pipeline.operative import OPERATIVE
from uio2.pipeline.store import read_record
from uio2.train.starting import TOKENIZER

SHOWN_DIFFERENCES = 6
HISTORY = "history.jsonl"


def objection(folder: Path, text: str) -> str | None:
    """Why a run with this configuration cannot have the folder; None if it can."""
    if "://" in str(folder):
        return f"MODEL_DIR {folder}: only local folders are supported; copy it there afterwards"
    if folder.exists() and not folder.is_dir():
        return f"MODEL_DIR {folder} is a file; expected a folder"
    claim = folder / OPERATIVE
    if claim.is_file():
        before = claim.read_text()
        if before == text:
            return None
        lines = difflib.unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=0)
        changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        shown = "; ".join(changed[:SHOWN_DIFFERENCES])
        return f"MODEL_DIR {folder} holds a run of another recipe ({shown}): choose another folder, or remove that one"
    if folder.is_dir() and any(folder.iterdir()):
        return f"MODEL_DIR {folder} holds files of something else: choose a new or empty folder"
    return None


def claim(folder: Path, text: str) -> None:
    """Writes the configuration into the folder, which `objection` had nothing against."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / OPERATIVE, text)


def deliver(artifact: Artifact, folder: Path, *, tokenizer: Path) -> Path:
    """Puts a published training into a claimed folder; asked again, it changes nothing.

    Args:
      artifact: of the train stage.
      folder: MODEL_DIR.
      tokenizer: the file the model was trained with.

    Returns:
      The folder of the checkpoint.
    """
    target = folder / f"checkpoint_{artifact.stats['steps']}"
    record = read_record(folder)
    if target.is_dir() and record and record["digest"] == artifact.digest:
        return target
    shutil.rmtree(target, ignore_errors=True)  # of a delivery that a kill cut short
    temporary = folder / f".{target.name}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(artifact.path / "model", temporary, copy_function=_link_arrays)
    shutil.copyfile(tokenizer, temporary / TOKENIZER)
    temporary.rename(target)
    shutil.copyfile(artifact.path / HISTORY, folder / HISTORY)
    write_text(folder / RECORD, (artifact.path / RECORD).read_text())
    return target


def _link_arrays(source: str, target: str) -> str:
    """A hard link for arrays; a copy for what people edit, or where links cannot be."""
    if "/params/" in source.replace(os.sep, "/"):
        try:
            os.link(source, target)
            return target
        except OSError:  # another file system
            pass
    return shutil.copyfile(source, target)
