"""The model a training starts from: fresh, on a pre-trained vision tower, or a checkpoint of any layout."""

from __future__ import annotations

from collections.abc import Mapping

from uio2.model import UnifiedIO2
from uio2.model.checkpoint import layouts, tree
from uio2.model.checkpoint.stored import Placement
from uio2.model.config import ModelConfig
from uio2.pipeline.artifact import Artifact
from uio2.train.models import fresh_model, on_one_device
from uio2.train.vision_tower import load_vit

INITIAL = "initial"  # the input of the train stage


def make_model(
    config: ModelConfig, *, seed: int, inputs: Mapping[str, Artifact], sharding: Placement = on_one_device
) -> UnifiedIO2:
    """The model before the first step.

    Args:
      config: the model's; modalities that it leaves out are not read from a checkpoint.
      seed: of fresh parameters.
      inputs: of the train stage: `initial` is a checkpoint of any layout, `vision` a trained tower, neither needed.
      sharding: where each parameter goes; a checkpoint is read by each device's own part.

    Raises:
      CheckpointError: the checkpoint does not fit the config.
    """
    if INITIAL in inputs:
        model = layouts.find(inputs[INITIAL].path).load(config=config, sharding=sharding)
    else:
        model = fresh_model(config, seed=seed, sharding=sharding)
    if "vision" not in inputs:
        return model
    return tree.build(load_vit(inputs["vision"].path, tree.flatten(model)), config=config, sharding=sharding)
