"""T5X paths and state-dict keys: the specification's tables, both ways."""

import json

import numpy as np
import pytest

from tests.model.reference import SPEC, needs_golden
from uio2.model.checkpoint import torch_names


@needs_golden
@pytest.mark.parametrize(("size", "number"), [("large", 1625), ("xl", 1625), ("xxl", 1621)])
def test_every_published_key_has_its_path_shape_and_operation(size, number):
    table = json.loads((SPEC / "layout" / f"mapping_{size}.json").read_text())
    assert len(table) == number
    assert {row["jax"]: torch_names.to_torch(row["jax"]) for row in table.values()} == {
        row["jax"]: key for key, row in table.items()
    }
    assert {key: torch_names.from_torch(key) for key in table} == {key: row["jax"] for key, row in table.items()}
    assert {key: torch_names.operation(row["jax"]).name for key, row in table.items()} == {
        key: row["op"] for key, row in table.items()
    }


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (
            "input_encoders_image_history/vit_image_encoder/vision_transformer/Transformer_0/ResidualAttentionBlock_3/"
            "MultiHeadDotProductAttention_0/query/kernel",
            "input_embedders.image_history.vit_image_encoder.vision_transformer.transformer.resblocks.3.attn."
            "query_in_proj_weight",
        ),
        (
            "input_encoders_audio_history/vit_image_encoder/vision_transformer/Transformer_0/ResidualAttentionBlock_0/"
            "norm2/scale",
            "input_embedders.audio_history.vit_image_encoder.vision_transformer.transformer.resblocks.0.ln_2.weight",
        ),
        (
            "input_encoders_image_history/resampler/PerceiverResampler_0/layers_2/attention/logit_scale",
            "input_embedders.image_history.resampler.perceiver.layers_2.attention.logit_scale",
        ),
    ],
)
def test_parts_no_published_file_has_are_named_by_the_same_rules(path, key):
    assert torch_names.to_torch(path) == key
    assert torch_names.from_torch(key) == path


@pytest.mark.parametrize(
    "key", ["stray", "encoder", "encoder.layers_0.pre_mlp_layer_norm.scale", "decoder.layers_0.mlp.wi_0.kernel", ""]
)
def test_a_key_that_no_path_has_is_not_taken_for_one(key):
    assert torch_names.from_torch(key) is None


@pytest.mark.parametrize(
    ("path", "shape", "torch_shape"),
    [
        ("encoder/layers_0/mlp/wo/kernel", (3, 5), (5, 3)),
        ("target_encoders_image/discrete_vae/quant_conv/kernel", (2, 3, 4, 5), (5, 4, 2, 3)),
        ("target_encoders_audio/discrete_vae/decoder/ConvTranspose_0/kernel", (2, 3, 4, 5), (4, 5, 2, 3)),
        ("text_token_embedder/embedding", (3, 5), (3, 5)),
    ],
)
def test_operations_are_inverse_and_read_parts(path, shape, torch_shape):
    operation = torch_names.operation(path)
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    there = operation.to_torch(array)
    assert there.shape == operation.torch_shape(shape) == torch_shape
    back = operation.to_t5x(np.asarray(there))
    np.testing.assert_array_equal(np.asarray(back), array)
    part = tuple(slice(1, side) for side in shape)
    np.testing.assert_array_equal(back[part], array[part])


def test_a_transposed_convolution_is_reversed_in_space():
    array = np.arange(2 * 3 * 1 * 2, dtype=np.float32).reshape(2, 3, 1, 2)
    there = np.asarray(torch_names.TRANSPOSED_CONVOLUTION.to_torch(array))
    for a, b in np.ndindex(2, 3):
        np.testing.assert_array_equal(there[:, :, a, b], array[1 - a, 2 - b])
