"""Behaviour of generation on tiny random models, without reference numbers."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from uio2.model import ModelConfig, UnifiedIO2
from uio2.model.generate import GenerateSettings, Locations, generate, score_options
from uio2.model.generate import logits as on
from uio2.model.parts import AudioCodecConfig, CodecTransformerConfig, ConfigError, ImageCodecConfig

EOS = 1
SIZES = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 24, "num_encoder_layers": 1, "num_decoder_layers": 2}
TEXT = ModelConfig(
    **SIZES, text_vocab_size=13, encoder_max_text_length=6, decoder_max_text_length=12, input_modalities=("text",),
    target_modalities=("text",),
)  # fmt: skip
HALF = CodecTransformerConfig(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=16, num_layers=1)
CODES = dataclasses.replace(
    TEXT, target_modalities=("image", "audio"), image_vocab_size=24, audio_vocab_size=32,
    image_codec=ImageCodecConfig(channels=32, multipliers=(1, 1), num_res_blocks=1, num_codes=20, image_size=(8, 8),
                                 attention_sides=()),
    audio_codec=AudioCodecConfig(HALF, HALF, code_dim=4, num_codes=28, spectrogram_size=(8, 16), patch_size=4),
)  # fmt: skip


def inputs_of(config, rows=3, seed=0):
    rng, length = np.random.default_rng(seed), config.encoder_max_text_length
    return {
        "inputs/text/tokens": rng.integers(2, config.text_vocab_size, (rows, length)).astype(np.int32),
        "inputs/text/mask": np.ones((rows, length), np.int32),
        "inputs/text/pos_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    }


def row_of(batch, row):
    return {key: value[row : row + 1] for key, value in batch.items()}


forward = nnx.jit(lambda model, batch: model(batch))


def forced_log_probabilities(model, batch, tokens):
    """Of each token of [b, t] given those before it, by the whole decoder at once."""
    tokens = np.asarray(tokens)
    ones = np.ones(tokens.shape, np.int32)
    targets = {"inputs": np.pad(tokens, ((0, 0), (1, 0)))[:, :-1], "targets": np.maximum(tokens, 2), "mask": ones,
               "pos_ids": ones * np.arange(tokens.shape[1], dtype=np.int32), "segment_ids": ones}  # fmt: skip
    logits = forward(model, batch | {f"targets/text/{key}": value for key, value in targets.items()})["text"].logits
    return np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[..., None], axis=-1)[..., 0]


def first_log_probabilities(model, batch):
    """Of every first token, [b, v]."""
    rows, vocab = len(batch["inputs/text/tokens"]), model.config.text_vocab_size
    repeated = {key: np.repeat(value, vocab, axis=0) for key, value in batch.items()}
    every = np.tile(np.arange(vocab), rows)[:, None]
    return forced_log_probabilities(model, repeated, every)[:, 0].reshape(rows, vocab)


@pytest.fixture(scope="module")
def model():
    return UnifiedIO2(TEXT, rngs=nnx.Rngs(1))


@pytest.fixture(scope="module")
def codes_model():
    return UnifiedIO2(CODES, rngs=nnx.Rngs(0))


def test_drawing_among_one_token_is_greedy(model):
    batch = inputs_of(TEXT)
    greedy = generate(model, batch)
    cold = generate(model, batch, settings=GenerateSettings(temperature=1e-5, seed=3))
    single = generate(model, batch, settings=GenerateSettings(temperature=5.0, top_k=1, seed=4))
    nucleus = generate(model, batch, settings=GenerateSettings(temperature=5.0, top_p=1e-6, seed=5))
    for drawn in (cold, single, nucleus):
        np.testing.assert_array_equal(drawn.tokens, greedy.tokens)
        np.testing.assert_allclose(drawn.logprobs, greedy.logprobs, atol=1e-6)


def test_samples_have_the_model_s_frequencies(model):
    rows = 4000
    batch = {key: np.repeat(value, rows, axis=0) for key, value in row_of(inputs_of(TEXT), 0).items()}
    scores = first_log_probabilities(model, row_of(batch, 0))[0]

    def expected(kept, temperature):
        chance = np.where(kept, np.exp(scores / temperature), 0.0)
        return chance / chance.sum()

    def check(chance, **settings):
        drawn = generate(model, batch, max_length=1, settings=GenerateSettings(seed=7, **settings))
        share = np.bincount(np.asarray(drawn.tokens)[:, 0], minlength=13) / rows
        assert np.all(share[chance == 0] == 0)
        # Five standard deviations of a share of 4000 draws.
        assert np.all(np.abs(share - chance) < 5 * np.sqrt(chance / rows) + 1e-9), (share, chance)

    order = np.argsort(-scores)
    before = np.cumsum(np.exp(scores[order])) - np.exp(scores[order])
    nucleus = np.isin(np.arange(13), order[before < 0.9])
    check(expected(np.ones(13, bool), 1.7), temperature=1.7)
    check(expected(np.isin(np.arange(13), order[:4]), 2.0), temperature=2.0, top_k=4)
    check(expected(nucleus, 2.0), temperature=2.0, top_p=0.9)
    check(expected(nucleus & np.isin(np.arange(13), order[:3]), 2.0), temperature=2.0, top_p=0.9, top_k=3)


def test_a_row_s_sample_is_its_own(model):
    batch = inputs_of(TEXT, rows=4)
    settings = GenerateSettings(temperature=2.0, seed=11)
    together = np.asarray(generate(model, batch, settings=settings, row_ids=[5, 6, 7, 8]).tokens)
    alone = np.asarray(generate(model, row_of(batch, 2), settings=settings, row_ids=[7]).tokens)
    np.testing.assert_array_equal(together[2:3], alone)
    other = dataclasses.replace(settings, seed=12)
    assert np.any(together != np.asarray(generate(model, batch, settings=other, row_ids=[5, 6, 7, 8]).tokens))


def test_rows_with_equal_inputs_draw_differently(model):
    batch = {key: np.repeat(value[:1], 4, axis=0) for key, value in inputs_of(TEXT).items()}
    tokens = np.asarray(generate(model, batch, settings=GenerateSettings(temperature=3.0)).tokens)
    assert len(np.unique(tokens, axis=0)) == 4


@pytest.mark.parametrize(
    "settings", [GenerateSettings(), GenerateSettings(temperature=1.0), GenerateSettings(num_beams=3)]
)
def test_decoding_ends_when_every_row_has(model, settings):
    allowed = np.ones((12, 13), bool)
    allowed[:3, :2] = False  # neither padding nor the end before the fourth token,
    allowed[3] = np.arange(13) == EOS  # which is the end
    output = generate(model, inputs_of(TEXT), settings=settings, allowed=allowed)
    tokens = np.asarray(output.tokens)
    assert int(output.steps) == 4
    assert np.all(tokens[:, :3] > 1)
    assert np.all(tokens[:, 3] == EOS)
    assert not tokens[:, 4:].any()
    assert not np.asarray(output.logprobs)[:, 4:].any()


def test_reported_log_probabilities_are_the_model_s(model):
    batch = inputs_of(TEXT)
    settings = GenerateSettings(temperature=2.0, top_k=6, top_p=0.95, repetition_penalty=1.3, seed=2)
    output = generate(model, batch, settings=settings)
    tokens = np.asarray(output.tokens)
    kept = np.cumsum(tokens == EOS, axis=1) - (tokens == EOS) == 0
    forced = forced_log_probabilities(model, batch, tokens)
    np.testing.assert_allclose(np.asarray(output.logprobs)[kept], forced[kept], atol=1e-5)
    np.testing.assert_allclose(output.scores, np.where(kept, forced, 0).sum(axis=1), atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_wide_beams_find_the_best_sequence_there_is(alpha):
    config = dataclasses.replace(TEXT, text_vocab_size=5)
    model, length = UnifiedIO2(config, rngs=nnx.Rngs(4)), 3
    batch = row_of(inputs_of(config), 0)
    scored = {}
    every = np.array(list(itertools.product(range(5), repeat=length)))
    repeated = {key: np.repeat(value, len(every), axis=0) for key, value in batch.items()}
    for tokens, logprobs in zip(every, forced_log_probabilities(model, repeated, every), strict=True):
        end = list(tokens).index(EOS) + 1 if EOS in tokens else length
        scored[(*tokens[:end], *[0] * (length - end))] = logprobs[:end].sum() / ((5 + end) / 6) ** alpha
    best = sorted(scored.values(), reverse=True)[:6]
    settings = GenerateSettings(num_beams=25, length_penalty=alpha)
    beams = generate(model, batch, settings=settings, max_length=length).beams
    np.testing.assert_allclose(beams.scores[0, :6], best, atol=1e-5)
    for tokens, score in zip(np.asarray(beams.tokens[0, :6]), np.asarray(beams.scores[0]), strict=False):
        # A cut beam that ends in padding reads like a shorter one, so compare scores of what was found.
        assert score == pytest.approx(scored[tuple(tokens.tolist())], abs=1e-5)


def test_beams_are_at_least_as_good_as_greedy_and_report_their_tokens(model):
    batch = inputs_of(TEXT)
    greedy = np.asarray(generate(model, batch).scores)
    output = generate(model, batch, settings=GenerateSettings(num_beams=4))
    scores = np.asarray(output.beams.scores)
    assert np.all(scores[:, 0] >= greedy - 1e-5)
    assert np.all(np.diff(scores, axis=1) <= 0)
    np.testing.assert_allclose(np.asarray(output.beams.logprobs).sum(axis=2), scores, atol=1e-4)
    forced = forced_log_probabilities(model, batch, output.tokens)
    kept = np.cumsum(np.asarray(output.tokens) == EOS, axis=1) - (np.asarray(output.tokens) == EOS) == 0
    np.testing.assert_allclose(np.asarray(output.logprobs)[kept], forced[kept], atol=1e-5)
    np.testing.assert_array_equal(output.tokens, output.beams.tokens[:, 0])


def test_groups_of_locations_are_completed(model):
    rows, locations = 64, Locations(first=9, end=13, group=4)
    batch = {key: np.repeat(value[:1], rows, axis=0) for key, value in inputs_of(TEXT).items()}
    settings = GenerateSettings(temperature=20.0, locations=locations)
    broken = {}
    for name, chosen in (("free", dataclasses.replace(settings, locations=None)), ("kept", settings)):
        tokens = np.asarray(generate(model, batch, settings=chosen).tokens)
        runs = ["".join("l" if token >= 9 else "." for token in row[row != 0]).split(".") for row in tokens]
        broken[name] = sum(len(run) % 4 != 0 for row in runs for run in row[:-1])  # the last may be cut
    assert broken["kept"] == 0 < broken["free"]


def test_guidance_mixes_log_probabilities(model):
    batch, away = inputs_of(TEXT), inputs_of(TEXT, seed=9)
    plain = generate(model, batch)
    same = generate(model, batch, settings=GenerateSettings(guidance=4.0), unconditional=batch)
    np.testing.assert_array_equal(same.tokens, plain.tokens)
    np.testing.assert_allclose(same.logprobs, plain.logprobs, atol=1e-4)
    guided = generate(model, batch, settings=GenerateSettings(guidance=4.0), unconditional=away, max_length=1)
    towards, off = (first_log_probabilities(model, inputs) for inputs in (batch, away))
    mixed = np.asarray(jax.nn.log_softmax(5 * towards - 4 * off))
    np.testing.assert_array_equal(np.asarray(guided.tokens)[:, 0], mixed.argmax(axis=1))
    np.testing.assert_allclose(np.asarray(guided.logprobs)[:, 0], mixed.max(axis=1), atol=1e-4)


def test_guidance_steers_away_from_the_empty_text_by_default(model):
    batch, settings = inputs_of(TEXT), GenerateSettings(guidance=4.0)
    empty = {key: np.zeros_like(value) for key, value in batch.items()} | {
        "inputs/text/pos_ids": batch["inputs/text/pos_ids"]
    }
    empty["inputs/text/tokens"][:, 0], empty["inputs/text/mask"][:, 0] = EOS, 1
    ours, given = (generate(model, batch, settings=settings, unconditional=u) for u in (None, empty))
    np.testing.assert_array_equal(ours.tokens, given.tokens)
    np.testing.assert_allclose(ours.logprobs, given.logprobs, atol=1e-5)


def test_repetition_penalty_sees_what_was_produced():
    logits, tokens = jnp.array([[2.0, -2.0, 1.0, 4.0]]), jnp.array([[0, 1, 3, 0]])
    every = on.penalise_repetition(logits, tokens, step=2, penalty=2.0)
    np.testing.assert_allclose(every, [[1.0, -4.0, 1.0, 4.0]])
    last = on.penalise_last(logits, jnp.array([1]), penalty=2.0)
    np.testing.assert_allclose(last, [[2.0, -4.0, 1.0, 4.0]])


def test_locations_are_preferred_where_they_hold_most():
    logits = jnp.array([[0.0, 0.0, 0.0, 5.0], [0.0, 5.0, 0.0, 0.0]])
    ours = np.asarray(on.prefer_locations(logits, locations=Locations(first=2, end=4)))
    assert np.all(ours[0, :2] < -9000)
    assert ours[0, 2:].min() > -10
    np.testing.assert_allclose(ours[1], jax.nn.log_softmax(logits[1]), atol=1e-6)


@pytest.mark.parametrize(("modality", "tokens", "codes"), [("image", 16, 20), ("audio", 8, 28)])
def test_codes_are_decoded_one_by_one_and_rendered(codes_model, modality, tokens, codes):
    batch = inputs_of(CODES)
    settings = GenerateSettings(temperature=3.0, seed=1)
    output = generate(codes_model, batch, modality=modality, settings=settings)
    ids = np.asarray(output.tokens)
    assert ids.shape == (3, tokens)
    assert ids.min() >= 2
    assert ids.max() < codes + 2
    assert int(output.steps) == tokens
    ones = np.ones(ids.shape, np.int32)
    targets = {f"targets/{modality}/codes": ids - 2, f"targets/{modality}/mask": ones}
    logits = forward(codes_model, batch | targets)[modality].logits
    forced = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), ids[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(output.logprobs, forced, atol=1e-5)
    if modality == "image":
        shown = np.clip((codes_model.image_target.codec.decode(ids - 2) + 1) / 2, 0, 1)
        assert output.pixels.shape == (3, 8, 8, 3)
        np.testing.assert_allclose(output.pixels, shown, atol=1e-4)
    else:
        assert output.spectrogram.shape == (3, 16, 8)
        np.testing.assert_allclose(
            output.spectrogram, codes_model.audio_target.codec.decode(ids - 2)[..., 0], atol=1e-4
        )


def test_an_image_never_ends_early_unless_as_in_the_original(codes_model):
    batch, only_end = inputs_of(CODES), np.arange(24)[None] == EOS
    settings = GenerateSettings.for_modality("image")
    ours = generate(codes_model, batch, modality="image", settings=settings, render=False)
    assert np.asarray(ours.tokens).min() >= 2
    assert ours.pixels is None
    compat = dataclasses.replace(settings, compat=True)
    theirs = generate(codes_model, batch, modality="image", settings=compat, allowed=only_end, render=False)
    assert int(theirs.steps) == 1


def test_options_are_scored_one_by_one(model):
    batch, rng = inputs_of(TEXT), np.random.default_rng(3)
    options = rng.integers(2, 13, (3, 4, 5)).astype(np.int32)
    for row, option in np.ndindex(3, 4):
        length = 1 + (row + option) % 4
        options[row, option, length - 1], options[row, option, length:] = EOS, 0
    options[1, 3] = 0
    scored = score_options(model, batch, options)
    by_length = score_options(model, batch, options, normalise="length")
    for option in range(4):
        forced = forced_log_probabilities(model, batch, options[:, option])
        real = options[:, option] > 0
        sums = np.where(real, forced, 0).sum(axis=1)
        there = real.any(axis=1)
        np.testing.assert_allclose(np.asarray(scored.scores)[there, option], sums[there], atol=1e-5)
        mean = sums[there] / real.sum(axis=1)[there]
        np.testing.assert_allclose(np.asarray(by_length.scores)[there, option], mean, atol=1e-5)
    assert np.isneginf(np.asarray(scored.scores)[1, 3])
    np.testing.assert_array_equal(scored.best, np.argmax(scored.scores, axis=1))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperature", -1.0, "a number of at least 0"), ("temperature", float("nan"), "a number"),
        ("top_p", 0.0, "above 0 and at most 1"), ("top_p", 1.5, "at most 1"), ("top_k", -1, "whole number"),
        ("top_k", 2.5, "whole number"), ("num_beams", True, "whole number"), ("max_length", 0, "at least 1"),
        ("repetition_penalty", 0.0, "above 0"), ("guidance", "10", "a number"), ("seed", -1, "at least 0"),
        ("length_penalty", 0.6, "num_beams"), ("compat", 1, "True or False"), ("locations", (3, 4), "Locations"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(field, value, expected):
    with pytest.raises(ConfigError) as error:
        GenerateSettings(**{field: value})
    for part in (f"GenerateSettings.{field}", repr(value), expected):
        assert part in str(error.value)


def test_settings_that_do_not_go_together_are_refused():
    for other in ({"temperature": 1.0}, {"guidance": 2.0}):
        with pytest.raises(ConfigError, match="beam search"):
            GenerateSettings(num_beams=2, **other)
    with pytest.raises(ConfigError, match=r"Locations\.end is 5; expected a whole number of at least 10"):
        Locations(first=9, end=5)


def test_requests_that_do_not_fit_the_model_are_refused(model, codes_model):
    batch = inputs_of(TEXT)
    cases = (
        (model, {"modality": "image"}, "target_modalities"),
        (model, {"modality": "picture"}, "expected one of text, image, audio"),
        (model, {"max_length": 13}, "decoder_max_text_length"),
        (model, {"allowed": np.ones((2, 13), bool)}, "allowed is bool"),
        (model, {"allowed": np.zeros((1, 13), bool)}, "nothing at step 0"),
        (model, {"row_ids": [1]}, "row_ids have shape"),
        (codes_model, {"modality": "image", "max_length": 3}, "always has 16 tokens"),
        (model, {"settings": GenerateSettings(guidance=1.0), "unconditional": {}}, "nothing at inputs/text/tokens"),
    )
    for which, request, expected in cases:
        with pytest.raises(ConfigError, match=expected):
            generate(which, batch, **request)
    with pytest.raises(ConfigError, match="normalise"):
        score_options(model, batch, np.ones((3, 2, 2)), normalise="mean")
    with pytest.raises(ConfigError, match="has 3"):
        score_options(model, batch, np.ones((2, 2, 2)))
