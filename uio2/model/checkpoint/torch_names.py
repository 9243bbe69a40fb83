"""T5X parameter paths and the keys of the PyTorch state dict on the hub (spec: HUGGINGFACE.md).

One table of rewrites per part of the model, read forwards for T5X -> torch and backwards for torch -> T5X. In a
pattern `#` stands for a number, `@` for `query`, `key` or `value` and `*` for what a norm precedes; both sides keep
them. A rewrite covers whole components between slashes; they are applied in order, so the general ones stand last.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from uio2.model.checkpoint.stored import Permuted, Stored

type Rewrites = tuple[tuple[str, str], ...]

_KERNEL: Rewrites = (("kernel", "weight"),)
_TOKENS: Rewrites = (("embedding", "weight"),)
_TRANSFORMER: Rewrites = (("pre_*_layer_norm", "pre_*_norm"), *_KERNEL)
_ATTENTION = "MultiHeadDotProductAttention_0"
_TOWER: Rewrites = (
    (f"{_ATTENTION}/@/kernel", "attn/@_in_proj_weight"),
    (f"{_ATTENTION}/@/bias", "attn/@_in_proj_bias"),
    (f"{_ATTENTION}/out", "attn/out_proj"),
    ("Transformer_0/ResidualAttentionBlock_#", "transformer/resblocks/#"),
)
_IMAGE_TOWER: Rewrites = (
    ("ln_#/scale", "ln_#/weight"),
    ("pre_ln/scale", "pre_ln/weight"),
    ("MLP_0/c_fc", "mlp/fc1"),
    ("MLP_0/c_proj", "mlp/fc2"),
    *_TOWER,
    *_KERNEL,
)
_AUDIO_TOWER: Rewrites = (
    ("norm#/scale", "ln_#/weight"),
    ("norm#/bias", "ln_#/bias"),
    ("pos_embed", "positional_embedding"),
    ("MLP_0", "mlp"),
    *_TOWER,
    *_KERNEL,
)
_RESAMPLER: Rewrites = (
    ("resampler/PerceiverResampler_0", "resampler/perceiver"),
    ("resampler_latents", "latents"),
    *_TRANSFORMER,
)
_IMAGE_CODEC: Rewrites = (
    ("discrete_vae", "vqgan"),
    ("quantize/embedding", "quantize/embedding/weight"),
    ("norm/scale", "norm/weight"),
    ("norm#/scale", "norm#/weight"),
    ("norm_out/scale", "norm_out/weight"),
    *_KERNEL,
)
_AUDIO_CODEC: Rewrites = (
    ("discrete_vae", "vqgan"),
    ("quantize/embedding", "quantize/embedding/weight"),
    ("encoder_norm/scale", "encoder_norm/weight"),
    ("LayerNormWithBias_0/scale", "ln_1/weight"),
    ("LayerNormWithBias_0/bias", "ln_1/bias"),
    ("LayerNormWithBias_1/scale", "ln_2/weight"),
    ("LayerNormWithBias_1/bias", "ln_2/bias"),
    (_ATTENTION, "attn"),
    ("MlpBlock_0/DenseGeneral_0", "mlp/fc1"),
    ("MlpBlock_0/DenseGeneral_1", "mlp/fc2"),
    ("Transformer_0", "transformer"),
    ("ConvTranspose_0", "conv_transpose"),
    *_KERNEL,
)
# T5X prefix, torch prefix, rewrites of what is below. The history's own tower (`vit_image_encoder`, when there is no
# image input) comes before the resampler, which has the same prefix.
_PARTS: tuple[tuple[str, str, Rewrites], ...] = (
    ("text_token_embedder", "text_token_embedder", _TOKENS),
    ("image_token_embedder", "image_token_embedder", _TOKENS),
    ("audio_token_embedder", "audio_token_embedder", _TOKENS),
    ("input_text_encoder", "input_embedders/text", ()),
    ("input_image_encoder", "input_embedders/image", _IMAGE_TOWER),
    ("input_audio_encoder", "input_embedders/audio", _AUDIO_TOWER),
    (
        "input_encoders_image_history/vit_image_encoder",
        "input_embedders/image_history/vit_image_encoder",
        _IMAGE_TOWER,
    ),
    (
        "input_encoders_audio_history/vit_image_encoder",
        "input_embedders/audio_history/vit_image_encoder",
        _AUDIO_TOWER,
    ),
    ("input_encoders_image_history", "input_embedders/image_history", _RESAMPLER),
    ("input_encoders_audio_history", "input_embedders/audio_history", _RESAMPLER),
    ("target_encoders_text", "target_embedders/text", ()),
    ("target_encoders_image", "target_embedders/image", _IMAGE_CODEC),
    ("target_encoders_audio", "target_embedders/audio", _AUDIO_CODEC),
    ("encoder", "encoder", _TRANSFORMER),
    ("decoder", "decoder", _TRANSFORMER),
)
_WILDCARDS = {"#": r"(\d+)", "@": "(query|key|value)", "*": "((?:self_|cross_|x)?attention|mlp)"}


@dataclasses.dataclass(frozen=True)
class Operation:
    """What turns a T5X array into the torch one.

    Attributes:
      name: as in the specification's tables.
      axes: torch axis i is T5X axis `axes[i]`; empty: the same array.
      flipped: T5X axes that are reversed as well.
    """

    name: str
    axes: tuple[int, ...] = ()
    flipped: tuple[int, ...] = ()

    def to_torch(self, array: Stored) -> Stored:
        """A view of the array in torch's layout."""
        return Permuted(array, axes=self.axes, flipped=self.flipped) if self.axes else array

    def to_t5x(self, array: Stored) -> Stored:
        """The inverse of `to_torch`."""
        if not self.axes:
            return array
        flipped = tuple(self.axes.index(axis) for axis in self.flipped)
        return Permuted(array, axes=tuple(int(axis) for axis in np.argsort(self.axes)), flipped=flipped)

    def torch_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[axis] for axis in self.axes) if self.axes else tuple(shape)


COPY = Operation("copy")
TRANSPOSE = Operation("transpose", (1, 0))
CONVOLUTION = Operation("conv_HWIO_to_OIHW", (3, 2, 0, 1))
# A transposed convolution of JAX reads its kernel from the other end.
TRANSPOSED_CONVOLUTION = Operation("convT_HWIO_to_IOHW_flipHW", (2, 3, 0, 1), (0, 1))


def operation(path: str) -> Operation:
    """How the array at a T5X path changes on its way to torch."""
    if not path.endswith("/kernel"):
        return COPY
    if path.endswith("/ConvTranspose_0/kernel"):
        return TRANSPOSED_CONVOLUTION
    return CONVOLUTION if path.startswith("target_encoders_image/") else TRANSPOSE


def to_torch(path: str) -> str:
    """The state-dict key of a T5X path; a path of no known part only has its slashes changed."""
    for theirs, torch, rewrites in _PARTS:
        if path.startswith(f"{theirs}/"):
            below = path[len(theirs) + 1 :]
            for before, after in rewrites:
                below = _replace(below, before, after)
            return f"{torch}/{below}".replace("/", ".")
    return path.replace("/", ".")


def from_torch(key: str) -> str | None:
    """The T5X path of a state-dict key, or None for a key that no T5X path has."""
    path = key.replace(".", "/")
    for theirs, torch, rewrites in _PARTS:
        if path.startswith(f"{torch}/"):
            below = path[len(torch) + 1 :]
            for before, after in rewrites:
                below = _replace(below, after, before)
            result = f"{theirs}/{below}"
            return result if to_torch(result) == key else None
    return None


def _replace(path: str, before: str, after: str) -> str:
    pattern, template = _compiled(before, after)
    return pattern.sub(template, path)


@functools.cache
def _compiled(before: str, after: str) -> tuple[re.Pattern[str], str]:
    pattern, template = re.escape(before).replace(r"\#", "#").replace(r"\*", "*"), after
    for wildcard, meaning in _WILDCARDS.items():
        pattern = pattern.replace(wildcard, meaning)
        template = template.replace(wildcard, r"\1")
    return re.compile(f"(?<![^/]){pattern}(?![^/])"), template
