"""One process of the train stage on a real mixture: `python -m tests.train.feed_member FOLDER` with an `inputs.json`.

What the stage returns goes to `FOLDER/stats-<process>.json`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.train.crew_member import context
from uio2.pipeline.artifact import Artifact
from uio2.train import train_stage
from uio2.train.evaluation_spec import EvaluationSpec
from uio2.train.specs import OptimizerSpec, TrainSpec

SMALL = {
    "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 48, "num_encoder_layers": 1, "num_decoder_layers": 1,
    "text_vocab_size": 2048, "encoder_max_text_length": 64, "decoder_max_text_length": 64,
    "image_vit": {"emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64, "num_layers": 2},
}  # fmt: skip
SPEC = TrainSpec(
    model_overrides=SMALL, steps=24, batch_size=8, log_every=4, checkpoint_every=3,
    optimizer=OptimizerSpec(learning_rate=3e-3, warmup_steps=2),
    evaluation=EvaluationSpec(every=4, batches=1, examples=4, tasks=("refcoco_unc",), batch_size=4),
)  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    inputs = {name: Artifact(**fields) for name, fields in json.loads((folder / "inputs.json").read_text()).items()}
    found = context(folder)
    stats = train_stage.run(SPEC, type(found)(inputs, found.out, found.work, found.progress, found.metric))
    (folder / f"stats-{os.environ.get('UIO2_PROCESS_ID', '0')}.json").write_text(json.dumps(stats))
    sys.stdout.flush()
    os._exit(0)  # as a stage's child ends: threads of TensorFlow can hang at the interpreter's end


if __name__ == "__main__":
    main()
