"""The tokenizer stage: a small SentencePiece model from the text of the built datasets.

Output: `tokenizer.model`, the base model (special pieces are appended on load, see `uio2.tasks.vocabulary`),
and `meta.json`. Only train splits are read. Settings follow the published model's: byte fallback, digits
split, no normalisation, spaces kept. One thread, one order: the same text gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tensorflow as tf

from uio2.pipeline.artifact import SOURCE, Artifact
from uio2.pipeline.stage import StageContext, StageError
from uio2.tasks import prompts
from uio2.tasks.datasets import StoredDataset
from uio2.tasks.sources import DATASETS
from uio2.tasks.specs import TokenizerSpec
from uio2.tasks.vocabulary import NUM_SPECIAL, ModelProto, UnifiedVocabulary

# Path of a text in a record, and whether tasks lower-case it.
TEXT_FIELDS = {
    "captions/text": False,
    "captions": False,
    "vqa/questions": False,
    "vqa/answers": True,
    "objects/refexp/raw": True,
    "regions/phrase": False,
    "texts": False,
    "questions/question": False,
    "questions/options": False,
    "labels": False,
    "transcript": False,
    "qa/question": False,
    "qa/answers": False,
    "instruction": False,
    "context": False,
    "response": False,
}
REPORT_EVERY = 500


def dataset_directory(artifact: Artifact) -> Path:
    """Where a dataset's TFDS directory lies: in an artifact, or a folder of the user's that is one.

    Raises:
      StageError: the artifact's record does not say.
    """
    if artifact.kind == SOURCE:
        return artifact.path
    relative = artifact.stats.get("tfds_dir")
    if relative is None:
        raise StageError(f"{artifact.uri}: stats have no 'tfds_dir'; expected a dataset artifact, rebuild it")
    return artifact.path / relative


def dataset_directories(inputs: Mapping[str, Artifact]) -> dict[str, Path]:
    """The TFDS directory of every input that is a dataset, by input name."""
    return {
        name: dataset_directory(artifact)
        for name, artifact in inputs.items()
        if artifact.kind == "dataset" or (artifact.kind == SOURCE and name in DATASETS)
    }


def run(spec: TokenizerSpec, context: StageContext) -> Mapping[str, Any]:
    """Trains and writes the model; returns its sizes.

    Raises:
      StageError: no dataset holds text, or the vocabulary is too small for its characters.
    """
    found: list[str] = []
    for name in sorted(context.inputs):
        dataset = StoredDataset(dataset_directory(context.inputs[name]))
        found.extend(dataset.classes())
        found.extend(dataset_lines(dataset, name, context.progress))
    if not found:
        raise StageError(
            f"inputs {sorted(context.inputs)} hold no text in {', '.join(TEXT_FIELDS)} of split 'train'; "
            f"build a dataset that has some"
        )
    lines = [*prompt_lines(spec.prompts), *found]
    if len(lines) > spec.max_sentences:
        keep = np.linspace(0, len(lines) - 1, spec.max_sentences).astype(int)
        lines = [lines[k] for k in keep]
    context.progress(0, 1, f"training on {len(lines)} lines")
    model = train(lines, spec=spec)
    vocabulary = UnifiedVocabulary(model)
    meta = {
        "base_size": vocabulary.base_size,
        "special_pieces": NUM_SPECIAL,
        "total_size": vocabulary.vocab_size,
        "padded_size": vocabulary.padded_size,
        "model_type": spec.model_type,
        "lines": len(lines),
        "sha256": hashlib.sha256(model).hexdigest(),
    }
    (context.out / "tokenizer.model").write_bytes(model)
    (context.out / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
    context.progress(1, 1, f"{vocabulary.base_size} pieces")
    return meta


def prompt_lines(families: Iterable[str]) -> Iterator[str]:
    """The words of all prompts of these families, placeholders removed."""
    for family in families:
        loaded = prompts.load_prompts(family)
        for prompt in (*loaded.train, loaded.evaluation):
            words = "".join(literal for literal, _ in prompts.segments(prompt))
            yield " ".join(w for w in words.split() if not w.startswith("<"))


def dataset_lines(dataset: StoredDataset, name: str, progress: Callable[..., None]) -> Iterator[str]:
    """Texts of the train split; equal answers of one record count once."""
    fields = [path for path in TEXT_FIELDS if dataset.is_text(path)]
    total = dataset.splits.get("train", 0)
    if not fields or not total:
        return
    for number, record in enumerate(dataset.stream("train", fields)):
        if number % REPORT_EVERY == 0:
            progress(number, total, f"reading text of {name}")
        for path in fields:
            value: Any = record
            for part in path.split("/"):
                value = value[part]
            values = value.flat_values if isinstance(value, tf.RaggedTensor) else value
            texts = [
                " ".join(t.decode("utf-8", "replace").split()) for t in np.array(values.numpy(), object).reshape(-1)
            ]
            if TEXT_FIELDS[path]:
                texts = list(dict.fromkeys(t.lower() for t in texts))
            yield from (t for t in texts if t)


def train(lines: list[str], *, spec: TokenizerSpec) -> bytes:
    """The serialized base model: unk, bos, eos at 0, 1, 2 and nothing in it that names a place.

    Raises:
      StageError: SentencePiece cannot train with this size.
    """
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=out, vocab_size=spec.vocab_size, model_type=spec.model_type,
            byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=True, character_coverage=0.99995, num_threads=1, hard_vocab_limit=False,
            max_sentence_length=16384, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise StageError(
            f"TokenizerSpec.vocab_size is {spec.vocab_size}: SentencePiece cannot train on {len(lines)} lines "
            f"({error}); raise vocab_size"
        ) from error
    model = ModelProto.FromString(out.getvalue())
    for field in ("input", "model_prefix"):
        model.trainer_spec.ClearField(field)
    return model.SerializeToString(deterministic=True)
