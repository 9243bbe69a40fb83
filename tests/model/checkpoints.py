"""Small models with every part, and files a published checkpoint could be, made without torch."""

from __future__ import annotations

import dataclasses
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from uio2.model import ModelConfig, UnifiedIO2, VitConfig
from uio2.model.checkpoint import t5x
from uio2.model.parts import AudioCodecConfig, CodecTransformerConfig, ImageCodecConfig, ResamplerConfig

_RESAMPLER = ResamplerConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_latents=3, max_frames=2)
_HALF = CodecTransformerConfig(emb_dim=16, num_heads=2, head_dim=4, mlp_dim=24, num_layers=2)
SMALL = ModelConfig(
    emb_dim=24, num_heads=2, head_dim=8, mlp_dim=40, num_encoder_layers=2, num_decoder_layers=3,
    text_vocab_size=50, image_vocab_size=40, audio_vocab_size=30, encoder_max_text_length=8, decoder_max_text_length=6,
    image_size=(32, 48), image_history_size=(32, 32), image_rope_scale=2.0, audio_rope_scale=2.0,
    audio_size=(32, 16), audio_history_size=(32, 16),
    image_vit=VitConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=2, num_positions=5),
    audio_vit=VitConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=2, num_positions=514),
    image_resampler=_RESAMPLER, audio_resampler=dataclasses.replace(_RESAMPLER, num_latents=2, num_layers=3),
    image_codec=ImageCodecConfig(
        channels=32, multipliers=(2, 1), num_res_blocks=1, num_codes=38, image_size=(16, 16), attention_sides=(8,)
    ),
    audio_codec=AudioCodecConfig(
        encoder=_HALF, decoder=_HALF, code_dim=4, num_codes=28, spectrogram_size=(16, 32), patch_size=8
    ),
)  # fmt: skip
# As xxl: cosine attention in the resamplers.
COSINE = dataclasses.replace(
    SMALL,
    image_resampler=dataclasses.replace(_RESAMPLER, cross_attention="scaled_cosine", self_attention="scaled_cosine"),
    audio_resampler=dataclasses.replace(_RESAMPLER, cross_attention="scaled_cosine", self_attention="scaled_cosine"),
)


def random_tree(config: ModelConfig, *, mixed: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """T5X-named arrays; `mixed`: bfloat16 but for vision transformers and codecs, like the hub's `-bfloat16` files."""
    rng = np.random.default_rng(seed)
    flat = {path: rng.standard_normal(s).astype(np.float32) for path, s in t5x.expected_shapes(config).items()}
    if not mixed:
        return flat
    kept = ("vision_transformer", "discrete_vae")
    return {p: a if any(part in p for part in kept) else a.astype(jnp.bfloat16) for p, a in flat.items()}


def same_arrays(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Names, dtypes, shapes and every bit are equal."""
    assert found.keys() == expected.keys()
    for path in expected:
        ours, theirs = np.asarray(found[path]), np.asarray(expected[path])
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), path
        assert ours.tobytes() == theirs.tobytes(), path


def same_models(ours: UnifiedIO2, theirs: UnifiedIO2) -> None:
    """Parameters are equal in every bit."""
    same_arrays(t5x.to_tree(ours), t5x.to_tree(theirs))


class Pickle:
    """A pickle assembled opcode by opcode (protocol 2), as torch.save writes it."""

    def __init__(self) -> None:
        self.data = bytearray(pickle.PROTO + b"\x02")

    def text(self, value: str) -> Pickle:
        return self.raw(pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode())

    def whole_number(self, value: int) -> Pickle:
        return self.raw(pickle.BININT + struct.pack("<i", value))

    def numbers(self, values: tuple[int, ...]) -> Pickle:
        self.raw(pickle.MARK)
        for value in values:
            self.whole_number(value)
        return self.raw(pickle.TUPLE)

    def name(self, module: str, name: str) -> Pickle:
        return self.raw(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def raw(self, opcodes: bytes) -> Pickle:
        self.data += opcodes
        return self

    def ordered_dict(self) -> Pickle:
        return self.name("collections", "OrderedDict").raw(pickle.EMPTY_TUPLE + pickle.REDUCE)

    def tensor(self, key: str, array: np.ndarray, *, offset: int = 0, strides: tuple[int, ...] | None = None) -> Pickle:
        """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
        kind = {"float32": "Float", "bfloat16": "BFloat16", "float16": "Half", "int64": "Long"}[array.dtype.name]
        if strides is None:
            strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        self.name("torch._utils", "_rebuild_tensor_v2").raw(pickle.MARK + pickle.MARK).text("storage")
        self.name("torch", f"{kind}Storage").text(key).text("cuda:0").whole_number(array.size)
        self.raw(pickle.TUPLE + pickle.BINPERSID).whole_number(offset).numbers(array.shape).numbers(strides)
        return self.raw(pickle.NEWFALSE).ordered_dict().raw(pickle.TUPLE + pickle.REDUCE)

    def done(self) -> bytes:
        return bytes(self.data + pickle.STOP)


def write_torch(
    path: Path, arrays: Mapping[str, np.ndarray], *, pickled: bytes | None = None, byteorder: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> None:  # fmt: skip
    """`torch.save(state_dict, path)`: an OrderedDict with its `_metadata`, one storage per tensor."""
    content = Pickle().ordered_dict().raw(pickle.MARK)
    for number, (name, array) in enumerate(arrays.items()):
        content.text(name).tensor(str(number), array)
    content.raw(pickle.SETITEMS + pickle.EMPTY_DICT).text("_metadata").ordered_dict()
    content.raw(pickle.SETITEM + pickle.BUILD)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content.done() if pickled is None else pickled)
        archive.writestr("archive/byteorder", byteorder)
        for number, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{number}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", b"3\n")
