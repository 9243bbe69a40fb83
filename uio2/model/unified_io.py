"""The model: modality encoders -> one encoder row -> encoder -> decoder -> logits per target modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from uio2.model.budget import checked_budget, known_budget
from uio2.model.config import INPUT_MODALITIES, TARGET_MODALITIES, ModelConfig
from uio2.model.encoders.visual import HistoryInput, VisualInput, modality_vector
from uio2.model.layers import Embedding
from uio2.model.parts import ConfigError
from uio2.model.rotary import grid_rotary, text_rotary
from uio2.model.rows import Assignment, Row, Segment, assemble
from uio2.model.targets import CodeTarget, TargetTokens, text_tokens
from uio2.model.transformer import Decoder, Encoder
from uio2.model.vit import SpectrogramTransformer, VisionTransformer

Batch = Mapping[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModalityOutput:
    """One target modality: logits [b, t, v] float32, targets [b, t] int32, loss_mask [b, t] float32."""

    logits: Float[Array, "b t v"]
    targets: Int[Array, "b t"]
    loss_mask: Float[Array, "b t"]


class UnifiedIO2(nnx.Module):
    """Unified-IO 2 (Lu et al. 2023, arXiv:2312.17172); see the package docstring for the batch.

    A modality of which a batch holds no key is absent there and costs nothing.

    Args:
      config: sizes; `input_modalities` and `target_modalities` choose what exists.
      rngs: source of the initial parameters.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        inputs, targets = set(config.input_modalities), set(config.target_modalities)
        text = "text" in inputs or "text" in targets
        self.text_embedder = Embedding(config.text_vocab_size, config.emb_dim, rngs=rngs) if text else None
        self.text_input_modality = modality_vector(config, rngs) if "text" in inputs else None
        self.text_target_modality = modality_vector(config, rngs) if "text" in targets else None
        # The model holds the vision transformers because an image and the image history share one.
        self.image_vit = VisionTransformer.of(config, rngs=rngs) if {"image", "image_history"} & inputs else None
        self.image_input = VisualInput(config, kind="image", rngs=rngs) if "image" in inputs else None
        self.image_history = HistoryInput(config, kind="image", rngs=rngs) if "image_history" in inputs else None
        self.audio_vit = SpectrogramTransformer.of(config, rngs=rngs) if {"audio", "audio_history"} & inputs else None
        self.audio_input = VisualInput(config, kind="audio", rngs=rngs) if "audio" in inputs else None
        self.audio_history = HistoryInput(config, kind="audio", rngs=rngs) if "audio_history" in inputs else None
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        image, audio = "image" in targets, "audio" in targets
        self.image_embedder = Embedding(config.image_vocab_size, config.emb_dim, rngs=rngs) if image else None
        self.image_target = CodeTarget(config, kind="image", rngs=rngs) if image else None
        self.audio_embedder = Embedding(config.audio_vocab_size, config.emb_dim, rngs=rngs) if audio else None
        self.audio_target = CodeTarget(config, kind="audio", rngs=rngs) if audio else None

    def _text_input(self, batch: Batch) -> Segment:
        tokens, mask, pos_ids = (batch[f"inputs/text/{key}"] for key in ("tokens", "mask", "pos_ids"))
        if tokens.shape[1] > self.config.encoder_max_text_length:
            raise ConfigError(
                f"inputs/text/tokens has length {tokens.shape[1]}; the model takes at most "
                f"{self.config.encoder_max_text_length} (encoder_max_text_length)"
            )
        embed = self._embed("text", tokens, _there(self.text_input_modality, "text input"))
        return Segment(embed, mask > 0, self._rotary("text", pos_ids))

    def source(
        self, batch: Batch, *, fold: int = 1, length: int | None = None, budget: Mapping[str, int] | None = None
    ) -> Segment:
        """The encoder's input row: text, image, image history, audio, audio history.

        Args:
          batch: its `inputs/...`.
          fold, length: see `assemble`.
          budget: see `__call__`.
        """
        slots = checked_budget(budget)
        segments = []
        for modality in self._present(batch, "inputs"):
            if modality == "text":
                segments.append(self._text_input(batch))
                continue
            kind = modality.removesuffix("_history")
            encoder = getattr(self, modality if modality.endswith("_history") else f"{kind}_input")
            segments.append(encoder(batch, tower=getattr(self, f"{kind}_vit"), slots=slots.get(f"inputs/{modality}")))
        return assemble(segments, fold=fold, length=length, assignment=Assignment.of(batch)).tokens

    def target_tokens(self, batch: Batch, *, budget: Mapping[str, int] | None = None) -> dict[str, TargetTokens]:
        """The target sequences of a batch by modality, in the order of the decoder's row."""
        slots = checked_budget(budget)
        return {
            modality: text_tokens(batch) if modality == "text"
            else getattr(self, f"{modality}_target")(batch, slots=slots.get(f"targets/{modality}"))
            for modality in self._present(batch, "targets")
        }  # fmt: skip

    def target_segment(
        self, inputs: Int[Array, "b t"], *, modality: str = "text", mask: Array, pos_ids: Int[Array, "b t"],
        segment_ids: Array | None = None,
    ) -> Segment:  # fmt: skip
        """What the decoder sees of one target modality; one token per call while decoding.

        Args:
          inputs: token ids, 0 first.
          modality: `text`, `image` or `audio`.
          mask: real tokens.
          pos_ids: index in the modality's sequence (text: in its segment), counted from 0.
          segment_ids: tokens see only their own.
        """
        vector = self.text_target_modality if modality == "text" else getattr(self, f"{modality}_target").modality
        embed = self._embed(modality, inputs, _there(vector, f"{modality} target"))
        return Segment(embed, mask > 0, self._rotary(modality, pos_ids), segment_ids)

    def logits(self, hidden: Float[Array, "b t d"], *, modality: str = "text") -> Float[Array, "b t v"]:
        """Scores of every token of a target modality, from the decoder's output."""
        return _there(getattr(self, f"{modality}_embedder"), f"{modality} target").logits(hidden)

    def _embed(self, modality: str, tokens: Array, vector: nnx.Param) -> Float[Array, "b t d"]:
        dtype = jnp.dtype(self.config.dtype)
        embedder = _there(getattr(self, f"{modality}_embedder"), modality)
        return embedder(tokens).astype(dtype) + vector[...].astype(dtype)

    def _rotary(self, modality: str, pos_ids: Array) -> Array | None:
        """Positions of tokens. The audio grid has the codec's (frequency, time) shape although tokens run over (time,
        frequency): the original counts them through it all the same (spec section 4)."""
        config = self.config
        if not config.use_rotary:
            return None
        if modality == "text":
            return text_rotary(pos_ids, head_dim=config.head_dim)
        grid = config.image_codec.grid if modality == "image" else config.audio_codec.grid
        return grid_rotary(pos_ids, columns=grid[1], head_dim=config.head_dim)

    def _present(self, batch: Batch, side: str) -> list[str]:
        """Modalities of the model that the batch holds, in the order of the row."""
        mine, order = (
            (self.config.input_modalities, INPUT_MODALITIES)
            if side == "inputs"
            else (self.config.target_modalities, TARGET_MODALITIES)
        )
        found = {key.split("/")[1] for key in batch if key.startswith(f"{side}/")}
        return [modality for modality in order if modality in mine and modality in found]

    def __call__(
        self, batch: Batch, *, fold: int = 1, horizontally_pack_inputs: int | None = None,
        horizontally_pack_targets: int | None = None, budget: Mapping[str, int] | None = None,
    ) -> dict[str, ModalityOutput]:  # fmt: skip
        """Teacher-forced logits for every target modality of the batch.

        Args:
          batch: see the package docstring.
          fold: examples per row of encoder and decoder.
          horizontally_pack_inputs, horizontally_pack_targets: length of their rows, real tokens packed to the front;
            what does not fit is dropped and counts in no loss. None: no packing. A batch that says which row each of
            its examples goes to (`packing/row`) needs both.
          budget: how many items of the whole batch are encoded, by the start of their keys: pictures and clips
            (`inputs/image`, `inputs/audio`, `targets/image`, `targets/audio`) or frames (`inputs/image_history`,
            `inputs/audio_history`). Real items get the places first; those beyond are dropped, which
            `packing_metrics` reports. None: as many as there are, which only values can tell; inside a traced
            function, and of what a budget does not name, every place is encoded, absent items too. A jitted step
            takes the `item_budget` of its batch as a static argument.
        """
        budget = known_budget(batch, config=self.config) if budget is None else budget
        source = self.source(batch, fold=fold, length=horizontally_pack_inputs, budget=budget)
        encoded = self.encoder(source)
        targets = self.target_tokens(batch, budget=budget)
        assignment = Assignment.of(batch)
        row = self._target_row(targets, fold=fold, length=horizontally_pack_targets, assignment=assignment)
        hidden = row.split(self.decoder(row.tokens, encoded=encoded, source=source))
        losses = [tokens.loss_mask for tokens in targets.values()]
        if (placed := row.placed()) is not None:
            losses = [mask * there for mask, there in zip(losses, placed, strict=True)]
        return {
            modality: ModalityOutput(self.logits(h, modality=modality), tokens.targets, loss_mask)
            for h, loss_mask, (modality, tokens) in zip(hidden, losses, targets.items(), strict=True)
        }

    def _target_row(
        self, targets: Mapping[str, TargetTokens], *, fold: int, length: int | None, assignment: Assignment | None
    ) -> Row:
        """Different targets of one example do not see each other (spec section 7)."""
        segments: list[Segment] = []
        for modality, tokens in targets.items():
            ids = tokens.segment_ids
            if len(targets) > 1:
                number = TARGET_MODALITIES.index(modality)
                ids = jnp.full(tokens.inputs.shape, number, jnp.int32) + len(TARGET_MODALITIES) * (
                    0 if ids is None else ids
                )
            segments.append(
                self.target_segment(
                    tokens.inputs, modality=modality, mask=tokens.mask, pos_ids=tokens.pos_ids, segment_ids=ids
                )
            )
        return assemble(segments, fold=fold, length=length, assignment=assignment)

    def with_modalities(
        self, *, inputs: Sequence[str] | None = None, targets: Sequence[str] | None = None
    ) -> UnifiedIO2:
        """This model without the parts of other modalities; the arrays are shared, not copied.

        Raises:
          ConfigError: a modality this model does not have.
        """
        mine = self.config
        config = dataclasses.replace(
            mine,
            input_modalities=mine.input_modalities if inputs is None else tuple(inputs),
            target_modalities=mine.target_modalities if targets is None else tuple(targets),
        )
        for field in ("input_modalities", "target_modalities"):
            if missing := set(getattr(config, field)) - set(getattr(mine, field)):
                raise ConfigError(f"{field} {sorted(missing)} asked for; this model has {getattr(mine, field)}")
        graph, state = nnx.split(nnx.eval_shape(lambda: UnifiedIO2(config, rngs=nnx.Rngs(0))))
        values = dict(nnx.to_flat_state(nnx.state(self)))
        return nnx.merge(graph, nnx.from_flat_state([(key, values[key]) for key, _ in nnx.to_flat_state(state)]))


def _there[T](part: T | None, what: str) -> T:
    if part is None:
        raise ConfigError(f"the model has no {what} (see input_modalities and target_modalities of its config)")
    return part
