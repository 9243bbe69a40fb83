"""Settings that change how the model computes and not what: rematerialisation, dtype, freezing, dropped parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.model import tiny
from tests.model.tiny import everything, seeded_codes
from uio2.model import multimodal_loss
from uio2.model.checkpoint import tree
from uio2.model.parts import ConfigError

CONFIG = dataclasses.replace(
    tiny.EVERYTHING, input_modalities=("text", "image_history"), target_modalities=("text", "audio"), freeze_vit=False
)


@pytest.fixture(scope="module")
def batch():
    return everything() | seeded_codes()


def loss_and_gradients(config, batch):
    graph, state = nnx.split(tiny.make(config))
    step = jax.jit(jax.value_and_grad(lambda s: multimodal_loss(nnx.merge(graph, s)(batch))[0]))
    value, gradients = step(state)
    return float(value), tree.flatten(nnx.merge(graph, gradients))


def test_remat_policies_agree(batch):
    config = dataclasses.replace(CONFIG, input_modalities=("text",), target_modalities=("text",))
    value, gradients = loss_and_gradients(config, batch)
    for remat in ("full", "dots"):
        again, others = loss_and_gradients(dataclasses.replace(config, remat=remat), batch)
        assert again == pytest.approx(value, rel=1e-6)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(others[name], gradient, atol=1e-5, err_msg=name)


def test_remat_keeps_less_for_the_backward_pass(batch):
    def residuals(remat):
        config = dataclasses.replace(
            CONFIG, input_modalities=("text", "image"), target_modalities=("text",), remat=remat
        )
        graph, state = nnx.split(tiny.make(config))
        loss = lambda s: multimodal_loss(nnx.merge(graph, s)(batch))[0]  # noqa: E731
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda s: jax.vjp(loss, s)[1], state)))

    none, dots, full = (residuals(remat) for remat in ("none", "dots", "full"))
    assert full < dots < none


def test_bfloat16_keeps_parameters_and_logits_in_float32(batch):
    config = dataclasses.replace(CONFIG, freeze_vit=True)
    full = tiny.make(config)
    half = tree.build(tree.flatten(full), config=dataclasses.replace(config, dtype="bfloat16"))
    forward = nnx.jit(lambda model, batch: model(batch))
    expected, ours = forward(full, batch), forward(half, batch)
    assert {leaf.dtype for leaf in tree.flatten(half).values()} == {jnp.dtype("float32")}
    source = nnx.eval_shape(lambda model: model.source(batch), half)
    encoded = nnx.eval_shape(lambda model: model.encoder(model.source(batch)), half)
    assert source.embed.dtype == encoded.dtype == jnp.bfloat16
    assert source.rotary.dtype == jnp.float32
    for modality, output in ours.items():
        assert output.logits.dtype == jnp.float32
        real = np.asarray(output.loss_mask) > 0
        assert np.abs(output.logits - expected[modality].logits)[real].max() < 0.25, modality
    assert float(multimodal_loss(ours)[0]) == pytest.approx(float(multimodal_loss(expected)[0]), rel=0.02)


def test_parts_can_be_dropped_after_loading(batch):
    model = tiny.make(CONFIG)
    text = model.with_modalities(inputs=("text",), targets=("text",))
    assert text.config.input_modalities == text.config.target_modalities == ("text",)
    kept = tree.flatten(text)
    assert not [name for name in kept if name.startswith(("image", "audio"))]
    assert all(np.array_equal(value, tree.flatten(model)[name]) for name, value in kept.items())
    only_text = {key: value for key, value in batch.items() if "/text/" in key}
    np.testing.assert_allclose(text(batch)["text"].logits, model(only_text)["text"].logits, atol=1e-6)
    history = model.with_modalities(inputs=("image_history",))
    assert tree.flatten(history).keys() >= {"image_vit/patch/kernel", "audio_embedder/embedding"}
    with pytest.raises(ConfigError, match="audio_history"):
        model.with_modalities(inputs=("text", "audio_history"))


def test_codecs_get_no_gradient():
    config = dataclasses.replace(CONFIG, input_modalities=("text",))
    _, gradients = loss_and_gradients(config, everything())
    codec = {name: np.abs(value).max() for name, value in gradients.items() if "/codec/" in name}
    assert codec
    assert not any(codec.values())
