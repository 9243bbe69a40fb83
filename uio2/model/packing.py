"""How full the rows of a batch are and what did not fit, from its masks alone (spec: MODEL.md sections 5, 7, 8)."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from uio2.model.config import ModelConfig
from uio2.model.rows import Assignment
from uio2.model.targets import text_mask

Masks = dict[str, Bool[Array, "b t"]]


def packing_metrics(
    batch: Mapping[str, Array], *, config: ModelConfig, fold: int = 1, horizontally_pack_inputs: int | None = None,
    horizontally_pack_targets: int | None = None, budget: Mapping[str, int] | None = None,
) -> dict[str, Float[Array, ""]]:  # fmt: skip
    """What `UnifiedIO2.__call__` makes of a batch under the same options.

    Returns:
      `packing/{input,target}_nonpadding_fraction`: real tokens per place of a row.
      `packing/{input,target}_overflow`: tokens per row that found no place.
      `packing/<history>_per_example`: real frames.
      `packing/<key of the budget>_overflow`: items beyond it; they count as absent in the above.
      `packing/n-valid`: examples with any target, as a fraction.
      `packing/examples_per_row`: of a batch that assigns its examples to rows.
      `tokens/{input,target}`, `tokens/{input,target}_places`: real tokens that found one, and places, of the batch.
    """
    metrics: dict[str, Array] = {}
    inputs = _input_masks(batch, config, budget or {}, metrics)
    targets = _target_masks(batch, config, budget or {}, metrics)
    for side, masks, length in (
        ("input", inputs, horizontally_pack_inputs),
        ("target", targets, horizontally_pack_targets),
    ):
        count, width = _tokens_of_rows(masks, batch, fold=fold)
        places = length or width
        placed = jnp.minimum(count, places)
        metrics[f"packing/{side}_nonpadding_fraction"] = placed.mean() / places
        metrics[f"tokens/{side}"] = placed.sum().astype(jnp.float32)
        metrics[f"tokens/{side}_places"] = jnp.float32(count.shape[0] * places)
        metrics[f"packing/{side}_overflow"] = jnp.maximum(count - places, 0).mean().astype(jnp.float32)
    any_target = jnp.concatenate(list(targets.values()), axis=1).any(axis=1)
    if "packing/examples" in batch:
        metrics["packing/examples_per_row"] = jnp.asarray(batch["packing/examples"]).mean()
    return metrics | {"packing/n-valid": any_target.mean()}


def _tokens_of_rows(masks: Masks, batch: Mapping[str, Array], *, fold: int) -> tuple[Int[Array, " r"], int]:
    """Real tokens of each row, and how many it could hold if none were moved."""
    each = jnp.concatenate(list(masks.values()), axis=1)
    assignment = Assignment.of(batch)
    if assignment is None:
        return each.reshape(each.shape[0] // fold, -1).sum(axis=1), fold * each.shape[1]
    groups, fold = assignment.row.shape
    row = jnp.where(assignment.row < 0, assignment.rows, assignment.row)
    row += (assignment.rows + 1) * jnp.arange(groups)[:, None]
    count = jnp.bincount(row.reshape(-1), weights=each.sum(axis=1), length=groups * (assignment.rows + 1))
    return count.reshape(groups, -1)[:, :-1].reshape(-1), fold * each.shape[1]


def _input_masks(
    batch: Mapping[str, Array], config: ModelConfig, budget: Mapping[str, int], metrics: dict[str, Array]
) -> Masks:
    """By modality, real tokens of the encoder's row; adds what is counted by items to `metrics`."""
    masks: Masks = {}
    for modality in config.input_modalities:
        if f"inputs/{modality}/mask" not in batch:
            continue
        mask = jnp.asarray(batch[f"inputs/{modality}/mask"]) > 0
        if modality == "text":
            masks[modality] = mask
            continue
        kept = _within_budget(mask, f"inputs/{modality}", budget, metrics)
        if modality.endswith("_history"):
            metrics[f"packing/{modality}_per_example"] = mask.any(axis=-1).sum() / mask.shape[0]
            resampler = config.image_resampler if modality == "image_history" else config.audio_resampler
            masks[modality] = jnp.repeat(kept, resampler.num_latents, axis=1)
        else:
            masks[modality] = mask & kept[..., None]
    return masks


def _target_masks(
    batch: Mapping[str, Array], config: ModelConfig, budget: Mapping[str, int], metrics: dict[str, Array]
) -> Masks:
    masks: Masks = {}
    for modality in config.target_modalities:
        if f"targets/{modality}/mask" not in batch:
            continue
        if modality == "text":
            masks[modality] = text_mask(batch) > 0
            continue
        mask = jnp.asarray(batch[f"targets/{modality}/mask"]) > 0
        if f"targets/{modality}/codes" not in batch:  # ready codes cost nothing, so no budget holds for them
            mask &= _within_budget(mask, f"targets/{modality}", budget, metrics)[..., None]
        masks[modality] = mask
    return masks


def _within_budget(
    mask: Bool[Array, "*i n"], name: str, budget: Mapping[str, int], metrics: dict[str, Array]
) -> Bool[Array, "*i"]:
    """Real items that are encoded; reports the others when the budget names them."""
    present = mask.any(axis=-1)
    if name not in budget:
        return present
    slots = budget[name]
    metrics[f"packing/{name}_overflow"] = jnp.maximum(present.sum() - slots, 0).astype(jnp.float32)
    return present & (jnp.cumsum(present.reshape(-1)).reshape(present.shape) <= slots)
