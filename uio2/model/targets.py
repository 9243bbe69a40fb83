"""What the decoder is taught: per target modality the tokens to predict and the tokens it sees (spec: MODEL.md
section 6).

Text comes ready from the data. Images and spectrograms become codes here, by the frozen codecs or, when the batch
holds codes already, without running them. A code c is token c + 2: token 0 starts the sequence, token 1 stands for
"unknown".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from uio2.model.codecs import AudioCodec, ImageCodec
from uio2.model.config import ModelConfig
from uio2.model.encoders.items import Encoded, encode_real, frozen
from uio2.model.encoders.visual import modality_vector

START, UNKNOWN = 0, 1
FIRST_CODE = 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TargetTokens:
    """One modality's target sequence.

    Attributes:
      targets: int32 [b, t], to be predicted.
      inputs: int32 [b, t], what the decoder sees.
      mask: bool [b, t], real tokens.
      loss_mask: float32 [b, t].
      pos_ids: int32 [b, t].
      segment_ids: int32 [b, t] when an example holds several targets that must not see each other.
    """

    targets: Int[Array, "b t"]
    inputs: Int[Array, "b t"]
    mask: Bool[Array, "b t"]
    loss_mask: Float[Array, "b t"]
    pos_ids: Int[Array, "b t"]
    segment_ids: Int[Array, "b t"] | None = None


def text_mask(batch: Mapping[str, Array]) -> Int[Array, "b t"]:
    """Real text tokens; a target that is only EOS (id 1) says nothing: it is masked whole."""
    targets = jnp.asarray(batch["targets/text/targets"])
    return jnp.asarray(batch["targets/text/mask"]) * (targets.sum(axis=-1, keepdims=True) > 1)


def text_tokens(batch: Mapping[str, Array]) -> TargetTokens:
    """`targets/text/*` as they are, under `text_mask`."""
    targets, inputs, pos_ids, segment_ids = (
        jnp.asarray(batch[f"targets/text/{key}"]) for key in ("targets", "inputs", "pos_ids", "segment_ids")
    )
    mask = text_mask(batch)
    return TargetTokens(targets, inputs, mask > 0, mask.astype(jnp.float32), pos_ids, segment_ids)


def _codec(config: ModelConfig, kind: str, rngs: nnx.Rngs) -> ImageCodec | AudioCodec:
    if kind == "image":
        return ImageCodec(config.image_codec, rngs=rngs)
    return AudioCodec(config.audio_codec, dtype=config.dtype, unroll=config.scan_unroll, rngs=rngs)


class CodeTarget(nnx.Module):
    """An image or a spectrogram as a sequence of codes.

    The original also computes masks that let a code see a row, a column or a neighbourhood of its grid alone, and
    hides codes that the task masks. It never hands them to its decoder, so the published weights know plain causal
    order only; there are no such masks here.
    """

    def __init__(self, config: ModelConfig, *, kind: str, rngs: nnx.Rngs):
        self.modality = modality_vector(config, rngs)
        self.codec = _codec(config, kind, rngs)
        self.config, self.kind = config, kind

    def codes(self, batch: Mapping[str, Array], *, present: Bool[Array, " b"], slots: int | None) -> Encoded:
        """In the order of the sequence: row-major, for spectrograms over (time, frequency)."""
        ready = f"targets/{self.kind}/codes"
        if ready in batch:
            return Encoded(jnp.asarray(batch[ready]), jnp.ones(present.shape, bool))
        values = jnp.asarray(batch[f"targets/{self.kind}/{self.kind}"])
        return encode_real(frozen(self.codec).encode, values, present=present, slots=slots)

    def __call__(self, batch: Mapping[str, Array], *, slots: int | None = None) -> TargetTokens:
        """Reads `targets/<kind>/{mask, loss_mask, task_mask}` and `codes` or the picture; the last two masks may be
        left out (then the loss counts every real token, and the task masked nothing)."""
        prefix = f"targets/{self.kind}"
        mask = jnp.asarray(batch[f"{prefix}/mask"]) > 0
        loss_mask = jnp.asarray(batch.get(f"{prefix}/loss_mask", mask)).astype(jnp.float32)
        task_mask = batch.get(f"{prefix}/task_mask")
        found = self.codes(batch, present=mask.any(axis=1), slots=slots)
        targets, kept = found.tokens + FIRST_CODE, found.kept[:, None]
        pos_ids = jnp.broadcast_to(jnp.arange(targets.shape[1], dtype=jnp.int32), targets.shape)
        inputs = self._inputs(targets, None if task_mask is None else jnp.asarray(task_mask) > 0)
        return TargetTokens(targets, inputs, mask & kept, loss_mask * kept, pos_ids)

    def _inputs(self, targets: Int[Array, "b t"], task_mask: Bool[Array, "b t"] | None) -> Int[Array, "b t"]:
        config, seen = self.config, targets
        if task_mask is not None and config.unk_mask_token:
            seen = jnp.where(task_mask, UNKNOWN, seen)
        shifted = jnp.pad(seen, ((0, 0), (1, 0)), constant_values=START)[:, :-1]
        if task_mask is not None and config.shift_back_input_token:
            return jnp.where(task_mask.any(axis=1, keepdims=True), seen, shifted)
        return shifted
