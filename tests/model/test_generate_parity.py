"""Decoding agrees with the original where it is asked to (`compat`), and everywhere the two mean the same."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.model.reference import GOLDEN, golden_model, load_case, needs_golden, parameters, seeded
from uio2.model.checkpoint import t5x
from uio2.model.generate import GenerateSettings, Locations, generate, score_options
from uio2.model.generate import logits as on
from uio2.model.generate.cached import CachedDecoder

pytestmark = needs_golden
LENGTH = 16


@pytest.fixture(scope="module")
def stored():
    with np.load(GOLDEN / "decoding.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def case():
    return load_case("b_image_text2text")


@pytest.fixture(scope="module")
def variant(case):
    """Other parameters, with which the output does not repeat one token."""
    flat = {}
    for path, value in parameters(case.model.config).items():
        factor = 4.0 if path.startswith("decoder/") and path.endswith(("out/kernel", "wo/kernel")) else 1.0
        flat[path] = value * np.float32(0.25 if path == "text_token_embedder/embedding" else factor)
    return t5x.from_tree(flat, config=case.model.config)


def seen(scores: np.ndarray) -> np.ndarray:
    """Stored beams come worst first; ours best first."""
    return scores[:, ::-1]


@pytest.mark.parametrize("name", ["beam1", "beam4", "beam1_rep1.5", "variant_beam1", "variant_beam4",
                                  "variant_beam1_rep1.5"])  # fmt: skip
def test_beam_search_agrees(name, case, variant, stored):
    tokens, scores, logprobs = (stored[f"text/{name}/text-{kind}"] for kind in ("tokens", "scores", "logprobs"))
    settings = GenerateSettings(
        num_beams=scores.shape[1], repetition_penalty=1.5 if name.endswith("rep1.5") else 1.0, compat=True
    )
    model = variant if name.startswith("variant") else case.model
    output = generate(model, case.batch, settings=settings, max_length=LENGTH)
    ours = np.asarray(output.beams.tokens)
    np.testing.assert_array_equal(
        ours if tokens.ndim == 3 else ours[:, 0], seen(tokens) if tokens.ndim == 3 else tokens
    )
    np.testing.assert_allclose(output.beams.scores, seen(scores), rtol=1e-5)
    np.testing.assert_allclose(output.beams.logprobs, seen(logprobs)[:, :, :LENGTH], atol=2e-4)
    assert int(output.steps) == LENGTH


def test_packed_inputs_agree(case, stored):
    settings = GenerateSettings(num_beams=1, compat=True)
    output = generate(case.model, case.batch, settings=settings, max_length=LENGTH, horizontally_pack_inputs=700)
    np.testing.assert_array_equal(output.tokens, stored["text/beam1_hpack700/text-tokens"])
    np.testing.assert_allclose(output.scores, stored["text/beam1_hpack700/text-scores"][:, 0], rtol=1e-5)


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_cached_steps_of_codes_agree(modality, stored):
    case = load_case("c_text2image")  # both were made from the inputs of this case
    model = golden_model(dataclasses.replace(case.model.config, target_modalities=(modality,)))
    tokens = stored[f"{modality}/step_input_tokens"]

    @nnx.jit
    def steps(model, inputs):
        decoder = CachedDecoder(model, model.source(inputs), modality=modality, length=tokens.shape[1])
        caches, every = decoder.empty(), []
        for i in range(tokens.shape[1]):
            logits, caches = decoder.step(tokens[:, i : i + 1], caches=caches, index=jnp.int32(i))
            every.append(logits)
        return jnp.concatenate(every, axis=1)

    logits = steps(model, {key: value for key, value in case.batch.items() if key.startswith("inputs/")})
    np.testing.assert_allclose(logits[:, :, ::16], stored[f"{modality}/step_logits[:, :, ::16]"], atol=2e-4)
    np.testing.assert_array_equal(np.argmax(logits, axis=-1), stored[f"{modality}/step_argmax"])


def test_sampling_at_temperature_zero_agrees(case, stored):
    settings = GenerateSettings(temperature=1e-6, top_k=1, compat=True)
    output = generate(case.model, case.batch, settings=settings, max_length=LENGTH)
    np.testing.assert_array_equal(output.tokens, stored["text/temp0_topk1/text-tokens"])
    np.testing.assert_allclose(output.logprobs, stored["text/temp0_topk1/text-logprobs"][:, 0], atol=2e-4)
    np.testing.assert_allclose(output.scores, stored["text/temp0_topk1/text-scores"][:, 0], rtol=1e-5)


@pytest.mark.parametrize(("name", "normalise"), [("choices", "none"), ("choices_normalized", "compat")])
def test_option_scores_agree(name, normalise, case, stored):
    expected, tokens = stored[f"{name}/all_scores"], stored["choices/options"]
    ours = score_options(case.model, case.batch, tokens, normalise=normalise)
    real = expected < 1e8
    np.testing.assert_allclose(-np.asarray(ours.scores)[real], expected[real], rtol=1e-5)
    assert np.all(np.isneginf(np.asarray(ours.scores)[~real]))
    np.testing.assert_array_equal(ours.best, stored[f"{name}/choice_ix"])


@pytest.mark.parametrize("alpha", [10, 2.5])
def test_guidance_agrees(alpha, stored):
    logits = stored["cfg/in_logits"]
    np.testing.assert_allclose(logits, 3 * seeded("cfg/logits", (4, 50)), rtol=1e-6)
    ours = on.guide(jnp.asarray(logits[:2]), jnp.asarray(logits[2:]), alpha=alpha)
    for half in np.split(stored[f"cfg/nd1_alpha{alpha}"], 2):
        np.testing.assert_allclose(ours, half, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.95])
def test_top_p_agrees(p, stored):
    ours = on.top_p(jnp.asarray(stored["filter/in_logits"]), p=p)
    np.testing.assert_array_equal(ours, stored[f"filter/top_p_{p}"])


def test_top_p_then_top_k_then_temperature_agrees(stored):
    name = "filter/top_p_0.9_then_top_k_20"
    values, ids = on.top_k(jnp.asarray(stored["filter/in_logits"]), k=20, p=0.9)
    kept = np.asarray(values) > on.REMOVED / 2
    np.testing.assert_array_equal(np.asarray(ids)[kept], stored[f"{name}/indices"][kept])
    np.testing.assert_allclose(
        on.heat(values, temperature=0.9), stored[f"{name}/values_over_temperature_0.9"], rtol=1e-6
    )


def test_preferring_locations_agrees(stored):
    logits = 2 * seeded("nonloc/logits", (3, 33280))
    logits[0, 32000:33000] += 3
    ours = np.asarray(on.prefer_locations(jnp.asarray(logits), locations=Locations()))
    np.testing.assert_allclose(ours[:, ::65], stored["non_loc_select/out_[:, ::65]"], rtol=1e-5)
