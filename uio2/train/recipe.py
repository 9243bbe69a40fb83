"""What a training recipe says beside the settings of its stages: where it starts from and where results go. Light.

None of it enters a fingerprint as it stands here: a checkpoint and a tokenizer count by their content, `model_dir` not
at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

FROM_CHECKPOINT = "checkpoint"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The macros in capitals that `configs/pipelines/finetune.gin` defines.

    Attributes:
      pipeline: first part of the artifacts' names.
      model: preset, path of a `config.json`, or `checkpoint` for the config of the checkpoint it starts from.
      tasks: task or mixture -> rate.
      initial_checkpoint: "" for fresh parameters; an artifact or model of the store (`digits@1`, `digits/train`), a
        folder of any layout, or a repository of the hub.
      model_dir: folder for the trained model, its history and its configuration; "" leaves them in the store alone.
      text_inputs, text_targets: longest text, tokens; None for as long as the model takes.
      tokenizer: SentencePiece file; "" for the one the checkpoint was trained with, else one trained on the data.
    """

    pipeline: str = "finetune"
    model: str = FROM_CHECKPOINT
    tasks: Mapping[str, float] = dataclasses.field(default_factory=dict)
    initial_checkpoint: str = ""
    model_dir: str = ""
    text_inputs: int | None = None
    text_targets: int | None = None
    tokenizer: str = ""
