"""Sizes of the model's parts as frozen dataclasses; no jax here.

Defaults are the published ones (spec: MODEL.md section 2).
"""

from __future__ import annotations

import dataclasses


class ConfigError(ValueError):
    """A model setting that cannot work; names the field, its value and what would."""


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """A vision transformer before the encoder: one for images, one for spectrograms.

    Attributes:
      emb_dim, num_heads, head_dim, mlp_dim, num_layers: the usual sizes.
      num_positions: rows of the learned position table. Images: one class token plus a square grid. Spectrograms:
        class token, distillation token and 512 rows, of which the published models use the first 128.
    """

    emb_dim: int = 768
    num_heads: int = 12
    head_dim: int = 64
    mlp_dim: int = 3072
    num_layers: int = 11
    num_positions: int = 197

    @property
    def grid_side(self) -> int:
        """Side of the square grid an image's position table was trained on."""
        return round((self.num_positions - 1) ** 0.5)


@dataclasses.dataclass(frozen=True)
class ResamplerConfig:
    """The perceiver that turns the patches of one history frame into a few latents.

    Attributes:
      emb_dim, num_heads, head_dim, mlp_dim, num_layers: the usual sizes.
      num_latents: tokens per frame.
      max_frames: frames the position table has rows for.
      cross_layers: which layers look at the patches; the others are self-attention over the latents.
      cross_attention, self_attention: `qk_norm`, `scaled_cosine` (the published xxl) or `plain`.
      gelu: `tanh` as the original, or `erf` as the PyTorch port (spec: HUGGINGFACE.md).
    """

    emb_dim: int = 768
    num_heads: int = 12
    head_dim: int = 64
    mlp_dim: int = 2048
    num_layers: int = 2
    num_latents: int = 32
    max_frames: int = 8
    cross_layers: tuple[int, ...] = (0, 1)
    cross_attention: str = "qk_norm"
    self_attention: str = "qk_norm"
    gelu: str = "tanh"

    def __post_init__(self) -> None:
        _choice(self, "cross_attention", ("qk_norm", "scaled_cosine", "plain"))
        _choice(self, "self_attention", ("qk_norm", "scaled_cosine", "plain"))
        _choice(self, "gelu", ("tanh", "erf"))


@dataclasses.dataclass(frozen=True)
class CodecLevel:
    """One resolution of the image codec: width on entry, width of its blocks, whether attention follows each."""

    features_in: int
    features_out: int
    attention: bool


@dataclasses.dataclass(frozen=True)
class ImageCodecConfig:
    """The VQGAN between pixels and codes (Esser et al. 2021, arXiv:2012.09841; spec section 10).

    Attributes:
      channels: width of the first level.
      multipliers: width of each level as a multiple of `channels`; between levels the side halves.
      num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
      z_channels: width of a code.
      num_codes: rows of the codebook.
      image_size: height and width, pixels.
      attention_sides: sides (heights) of the feature map at which attention follows each residual block.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    num_codes: int = 16384
    image_size: tuple[int, int] = (256, 256)
    attention_sides: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        _multiple(self, "image_size", self.image_size, self.patch_size)
        # The norms have 32 groups (spec section 3).
        _multiple(self, "channels * multipliers", tuple(self.channels * m for m in (1, *self.multipliers)), 32)

    @property
    def patch_size(self) -> int:
        """Pixels per code along each side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def levels_down(self) -> tuple[CodecLevel, ...]:
        """The encoder's levels, from the pixels down."""
        widths = [self.channels * m for m in (1, *self.multipliers)]
        return tuple(self._level(i, widths[i], widths[i + 1]) for i in range(len(self.multipliers)))

    @property
    def levels_up(self) -> tuple[CodecLevel, ...]:
        """The decoder's levels, from the lowest resolution up (spec section 10)."""
        widths = [self.channels * m for m in (*self.multipliers, self.multipliers[-1])]
        return tuple(self._level(i, widths[i + 1], widths[i]) for i in reversed(range(len(self.multipliers))))

    def _level(self, depth: int, features_in: int, features_out: int) -> CodecLevel:
        return CodecLevel(features_in, features_out, self.image_size[0] // 2**depth in self.attention_sides)


@dataclasses.dataclass(frozen=True)
class CodecTransformerConfig:
    """One half (encoder or decoder) of the spectrogram codec."""

    emb_dim: int = 512
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 2048
    num_layers: int = 8


@dataclasses.dataclass(frozen=True)
class AudioCodecConfig:
    """The ViT-VQGAN between spectrograms and codes (Yu et al. 2022, arXiv:2110.04627; spec section 10).

    Attributes:
      encoder, decoder: sizes of the two transformers.
      code_dim: width of a code.
      num_codes: rows of the codebook.
      spectrogram_size: frequency bins and time frames (this order, unlike everywhere else).
      patch_size: side of the square that becomes one code.
    """

    encoder: CodecTransformerConfig = CodecTransformerConfig()
    decoder: CodecTransformerConfig = CodecTransformerConfig()
    code_dim: int = 32
    num_codes: int = 8192
    spectrogram_size: tuple[int, int] = (128, 256)
    patch_size: int = 8

    def __post_init__(self) -> None:
        _multiple(self, "spectrogram_size", self.spectrogram_size, self.patch_size)
        # The fixed position table is sine and cosine of row and of column.
        _multiple(self, "emb_dim of encoder and decoder", (self.encoder.emb_dim, self.decoder.emb_dim), 4)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows (frequency) and columns (time) of codes."""
        return self.spectrogram_size[0] // self.patch_size, self.spectrogram_size[1] // self.patch_size


def _choice(config: object, field: str, known: tuple[str, ...]) -> None:
    if getattr(config, field) not in known:
        raise ConfigError(
            f"{type(config).__name__}.{field} is {getattr(config, field)!r}; expected one of {', '.join(known)}"
        )


def _multiple(config: object, field: str, values: tuple[int, ...], of: int) -> None:
    if any(value % of for value in values):
        raise ConfigError(f"{type(config).__name__}: {field} is {values}; expected multiples of {of}")
