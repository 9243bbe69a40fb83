"""The whole forward and backward pass computes what the original does, for every stored case."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.model.reference import Case, load_case, needs_golden, stored_codes
from uio2.model import UnifiedIO2, multimodal_loss
from uio2.model.checkpoint import t5x

QUICK = ("a_text2text", "a2_text_subsegments", "b_image_text2text", "d_audio_text2text")
HEAVY = ("c_text2image", "e_text2audio", "f_history_text2text", "g_everything", "h_packed", "h2_hpack_nofold")
PACKING = ("fold", "horizontally_pack_inputs", "horizontally_pack_targets")


def run(case: Case):
    """(loss, outputs, metrics, gradients by T5X path), as a training step computes them."""
    options = {key: value for key, value in case.figures["module_args"].items() if key in PACKING}
    graph, state = nnx.split(case.model)
    batch = case.batch | stored_codes(case)

    @jax.jit
    def step(state):
        def loss(state):
            model: UnifiedIO2 = nnx.merge(graph, state)
            outputs = model(batch, **options)
            value, metrics = multimodal_loss(outputs, z_loss=1e-4)
            return value, (outputs, metrics)

        return jax.value_and_grad(loss, has_aux=True)(state)

    (value, (outputs, metrics)), gradients = step(state)
    return value, outputs, metrics, t5x.to_tree(nnx.merge(graph, gradients))


def check_outputs(case: Case, outputs) -> None:
    for modality, output in outputs.items():
        stored = {key: case.arrays[f"{modality}/{key}"] for key in ("logits_strided", "targets", "loss_mask")}
        np.testing.assert_array_equal(output.loss_mask, stored["loss_mask"])
        real = stored["loss_mask"] > 0
        np.testing.assert_array_equal(np.asarray(output.targets)[real], stored["targets"][real])
        strides = case.figures[f"{modality}/logits"]
        logits = np.asarray(output.logits)
        kept = real[:, :: strides["token_stride"]]
        strided = logits[:, :: strides["token_stride"], :: strides["vocab_stride"]]
        if kept.any():
            assert np.abs(strided - stored["logits_strided"])[kept].max() < 2e-4, modality
        normaliser = np.asarray(jax.nn.logsumexp(output.logits, axis=-1))
        np.testing.assert_allclose(normaliser[real], case.arrays[f"{modality}/logsumexp"][real], atol=2e-4)
        picked = np.take_along_axis(logits, np.asarray(output.targets)[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(picked[real], case.arrays[f"{modality}/target_logit"][real], atol=2e-4)


def check_gradients(case: Case, gradients) -> None:
    norms = {path: float(np.linalg.norm(value)) for path, value in gradients.items()}
    for path, norm in case.figures["grad_l2"].items():
        assert norms[path] == pytest.approx(norm, rel=1e-3), path
    zero = {path for path, norm in norms.items() if norm == 0.0}
    expected = case.figures["grad_zero_params"]
    if isinstance(expected, list):
        assert zero == set(expected)
    else:
        assert len(zero) == expected
    total = np.sqrt(sum(norm**2 for norm in norms.values()))
    assert total == pytest.approx(case.figures["grad_global_norm"], rel=1e-3)


@needs_golden
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)])
def test_logits_losses_and_gradients_agree(name):
    case = load_case(name)
    value, outputs, metrics, gradients = run(case)
    assert set(outputs) == set(case.figures["target_modalities"])
    check_outputs(case, outputs)
    assert float(value) == pytest.approx(case.figures["loss"], rel=1e-5)
    for key, expected in case.figures["metrics"].items():
        if not key.startswith("packing/") and np.isfinite(expected):  # the original's accuracy of no tokens is NaN
            assert float(metrics[key]) == pytest.approx(expected, rel=1e-5), key
    check_gradients(case, gradients)
