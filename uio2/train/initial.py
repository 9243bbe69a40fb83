"""The model a training starts from: fresh, on a pre-trained vision tower, or a checkpoint of any layout; and what of it
stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from flax import nnx

from uio2.model import UnifiedIO2
from uio2.model.checkpoint import layouts, tree
from uio2.model.checkpoint.stored import Placement
from uio2.model.config import ModelConfig
from uio2.pipeline.artifact import Artifact
from uio2.train.vision_tower import load_vit

INITIAL = "initial"  # the input of the train stage
TOWERS = ("image_vit/", "audio_vit/")
# Codes come from an argmin, so no gradient reaches a codec; weight decay must not either.
CODECS = ("image_target/codec/", "audio_target/codec/")


def make_model(
    config: ModelConfig, *, seed: int, inputs: Mapping[str, Artifact], sharding: Placement | None = None
) -> UnifiedIO2:
    """The model before the first step.

    Args:
      config: the model's; modalities that it leaves out are not read from a checkpoint.
      seed: of fresh parameters.
      inputs: of the train stage: `initial` is a checkpoint of any layout, `vision` a trained tower, neither needed.
      sharding: parameter name -> where it goes, while a checkpoint is read.

    Raises:
      CheckpointError: the checkpoint does not fit the config.
    """
    if INITIAL in inputs:
        model = layouts.find(inputs[INITIAL].path).load(config=config, sharding=sharding)
    else:
        model = UnifiedIO2(config, rngs=nnx.Rngs(seed))
    if "vision" not in inputs:
        return model
    return tree.build(load_vit(inputs["vision"].path, tree.flatten(model)), config=config)


def frozen_parts(config: ModelConfig) -> tuple[str, ...]:
    """Name prefixes of the parameters that are not trained."""
    return (*TOWERS, *CODECS) if config.freeze_vit else CODECS
