"""An evaluation suite beside the settings of its stages: which tasks, of which checkpoint. Light.

As with training recipes, what names a place is no part of a fingerprint: checkpoint and tokenizer count by content.
"""

from __future__ import annotations

import dataclasses

FROM_CHECKPOINT = "checkpoint"


@dataclasses.dataclass(frozen=True)
class Suite:
    """The names in capitals that `configs/pipelines/evaluate.gin` defines.

    Attributes:
      pipeline: first part of the artifacts' names.
      tasks: tasks and mixtures.
      checkpoint: an artifact or model of the store (`digits@1`, `digits/train`), a folder of any layout, or a
        repository of the hub.
      model: `checkpoint` for the config of the checkpoint, else a preset or the path of a `config.json`: T5X
        directories hold none.
      text_inputs, text_targets: longest text, tokens; None for as long as the model takes.
      tokenizer: SentencePiece file; "" for the one the checkpoint was trained with.
    """

    pipeline: str = "evaluate"
    tasks: tuple[str, ...] = ()
    checkpoint: str = ""
    model: str = FROM_CHECKPOINT
    text_inputs: int | None = None
    text_targets: int | None = None
    tokenizer: str = ""
