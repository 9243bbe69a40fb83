"""Every recipe fits every model; what cannot work is said at once, before anything starts."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from flows.finetune import is_recipe, recipe_files, settings
from uio2.cli.main import main
from uio2.model.config import ModelConfig
from uio2.pipeline.stage import UsageError, spec_to_json
from uio2.pipeline.store import Store
from uio2.tasks.pieces import Pieces
from uio2.train import preflight
from uio2.train.preflight import Flight

MODELS = ("tiny", "base", "large", "xl", "xxl", "digits")
REFEXP, LARGE = "configs/finetune/refexp.gin", "configs/models/large.gin"
SMALL = {
    "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 48, "num_encoder_layers": 1, "num_decoder_layers": 1,
    "text_vocab_size": 2048,
    "image_vit": {"emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64, "num_layers": 1},
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def with_model(recipe: str, model: str) -> list[str]:
    """The files in the order the heads of the recipes say."""
    file = f"configs/models/{model}.gin"
    return [recipe, file] if model == "digits" else [file, recipe]


@pytest.mark.parametrize("recipe", recipe_files())
def test_a_recipe_fits_every_model(recipe, store):
    for model in MODELS:
        found = settings(with_model(recipe, model), [], store=store)
        assert found.train.model == model
        data = dict.fromkeys(found.datasets, store.root)
        flight = Flight(found.register, found.train, data, pieces=found.tokenizer.vocab_size, devices=8)
        left = [p for p in preflight.problems(flight) if "dataset_info.json" not in p]
        if recipe.startswith("configs/finetune"):  # meant to start from a checkpoint, which this has not
            left = [p for p in left if "fresh parameters" not in p and "a tokenizer of 16000 pieces" not in p]
        if recipe.endswith("/multimodal.gin"):
            left = [p for p in left if "fresh parameters" not in p and "TEXT_VOCAB_SIZE" not in p]
        assert left == [], model


def test_what_is_printed_reads_back_as_the_same_recipe(store, tmp_path):
    bindings = ["BATCH_SIZE=8", "train.OptimizerSpec.b2=0.9", "PACKING='best_fit'"]
    first = settings([LARGE, REFEXP], bindings, store=store)
    file = tmp_path / "operative_config.gin"
    file.write_text(first.text(trains_tokenizer=True))
    again = settings([str(file)], [], store=store)
    for part in ("train", "register", "tokenizer"):
        assert spec_to_json(getattr(again, part)) == spec_to_json(getattr(first, part))
    assert first.train.batch_size == 8
    assert again.text() == first.text()


def test_a_command_line_means_a_recipe_by_what_it_sets(tmp_path):
    mine = tmp_path / "mine.gin"
    mine.write_text(f"include '{REFEXP}'\nSTEPS = 7\n")
    assert is_recipe([str(mine)], [])
    assert is_recipe([], ["INITIAL_CHECKPOINT='x'"])
    assert not is_recipe(["tests/flows/tiny_digits.gin"], ["STEPS=20"])


def test_a_config_by_its_file_counts_by_its_content(store, tmp_path):
    config = ModelConfig.preset("large").with_overrides({"num_encoder_layers": 2})
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(config.to_json())
    found = [settings([REFEXP], [f"MODEL='{tmp_path}/{f}/config.json'"], store=store) for f in ("a", "b")]
    assert found[0].train == found[1].train
    assert found[0].train.model_config["num_encoder_layers"] == 2
    (tmp_path / "a" / "config.json").write_text(json.dumps(ModelConfig.preset("large").to_reference()))
    assert settings([REFEXP], [f"MODEL='{tmp_path}/a/config.json'"], store=store).train.model == "large"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([REFEXP], "no MODEL: add --gin_file=configs/models/SIZE.gin"),
        ([LARGE], "no TASKS: add --gin_file=RECIPE, one of configs/finetune/audio_caption.gin"),
        ([LARGE, REFEXP, "--gin.BATCHSIZE=8"], "did you mean 'BATCH_SIZE'"),
        ([REFEXP, "--gin.MODEL='larg'"], "unknown model preset 'larg'"),
        ([REFEXP, "--gin.MODEL='nowhere.json'"], "model 'nowhere.json': no such file"),
        ([LARGE, REFEXP, "--gin.TASKS={'refex': 1.0}"], "did you mean 'refexp'"),
        ([LARGE, REFEXP, "--gin.INITIAL_CHECKPOINT='digits@7'"], "'digits@7' is no folder, and no model 'digits@7'"),
        ([LARGE, REFEXP, "--gin.INITIAL_CHECKPOINT='configs'"], "configs is not a checkpoint: it holds"),
        ([LARGE, REFEXP, "--dataset", "coco=x"], "no task of the recipe reads it"),
    ],
)
def test_what_cannot_be_meant_is_one_message(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UIO2_HOME", str(tmp_path))
    command = [a if a.startswith("--") or "=" in a else f"--gin_file={a}" for a in arguments]
    assert main(["train", "--dry_run", *command]) == 2
    assert message in capsys.readouterr().err


def test_all_that_cannot_work_is_said_together(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UIO2_HOME", str(store.root))
    monkeypatch.setattr("sys.executable", "/bin/false")  # nothing may be started after this
    bindings = ["TASKS={'refcoco_unc': 1.0, 'audio_generation': 1.0}", "TEXT_INPUTS=900", "BATCH_SIZE=6",
                "tasks.RegisterSpec.image_size=(128, 128)", f"MODEL_DIR='{tmp_path}'"]  # fmt: skip
    found = settings([LARGE, REFEXP], bindings, store=store)
    flight = Flight(found.register, found.train, {}, pieces=400, devices=4)
    (tmp_path / "something").touch()
    said = "\n".join(preflight.problems(flight))
    for part in (
        "no dataset 'refcoco' for refcoco_unc: `uio2 build refcoco`",
        "task 'audio_generation' answers with audio, TARGET_MODALITIES are ('text',)",
        "RegisterSpec.text_inputs is 900, the model's encoder_max_text_length is 512; lower the first",
        "RegisterSpec.image_size makes (128, 128), the model takes (384, 384)",
        "BATCH_SIZE is 6; expected a multiple of the 4 devices it is split over, for example 8",
        "the transformer that sees image would stay random: --gin.FREEZE_VIT=False",
        "--gin.TEXT_VOCAB_SIZE=1664",
    ):
        assert part in said
    with pytest.raises(UsageError, match="2 problems, nothing was started"):
        preflight.refuse(["a", "b"])


def test_an_evaluation_of_what_is_not_there_is_refused_before_anything_starts(store, tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"splits": [{"name": "train"}, {"name": "testA"}]}')

    def said(*bindings: str) -> str:
        found = settings([LARGE, REFEXP], ["KEEP_BEST=1", *bindings], store=store)
        flight = Flight(found.register, found.train, dict.fromkeys(found.datasets, tmp_path), pieces=400)
        return "\n".join(preflight.problems(flight))

    split = "EvaluationSpec.split is 'validation', which no dataset has (refcoco: testA, train; refcoco_"
    assert split in said()
    assert "EvaluationSpec" not in said("train.EvaluationSpec.split='testA'")
    assert "EvaluationSpec" not in said("EVAL_EVERY=0", "BEST_METRIC='loss'")
    unknown = "names 'vqa', which is not trained; expected some of refcoco_unc"
    assert unknown in said("train.EvaluationSpec.tasks=('vqa',)")
    named = "expected task/NAME/loss or accuracy, NAME one of refcoco_unc"
    assert named in said("BEST_METRIC='task/vqa/loss'")
    assert named in said("BEST_METRIC='task/refexp/iou'")
    assert "BEST_METRIC" not in said("BEST_METRIC='task/refcoco_unc/loss'")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint with its tokenizer beside it, and another tokenizer."""
    import io

    import sentencepiece
    from flax import nnx

    from uio2.model import UnifiedIO2
    from uio2.model.checkpoint import native

    folder = tmp_path_factory.mktemp("trained")
    native.save(UnifiedIO2(ModelConfig.preset("digits").with_overrides(SMALL), rngs=nnx.Rngs(0)), folder / "model")
    for place, size in ((folder / "model", 300), (folder, 310)):
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a red seven beside a blue two", "the green digit on the left"] * 20),
            model_writer=out, vocab_size=size, model_type="bpe", byte_fallback=True, hard_vocab_limit=False,
            minloglevel=2,
        )  # fmt: skip
        (place / "tokenizer.model").write_bytes(out.getvalue())
    return folder


def checked(trained, store, *bindings: str) -> str:
    """What is wrong with going on from the checkpoint."""
    start = f"INITIAL_CHECKPOINT='{trained / 'model'}'"
    found = settings([REFEXP], [start, "TEXT_INPUTS=20", *bindings], store=store)
    flight = Flight(
        found.register, found.train, dict.fromkeys(found.datasets, trained), found.start, found.tokenizer_path
    )
    return "\n".join(p for p in preflight.problems(flight) if "dataset_info.json" not in p)


def test_a_checkpoint_brings_its_config_and_its_tokenizer_and_takes_no_others(trained, store):
    assert checked(trained, store) == ""
    assert "is another tokenizer than the checkpoint was trained with" in checked(
        trained, store, f"TOKENIZER='{trained / 'tokenizer.model'}'"
    )
    assert Pieces.from_file(trained).sha256 != Pieces.from_file(trained / "model").sha256
    said = checked(trained, store, "MODEL='digits'")
    assert "tensors do not fit the model config: Is MODEL the model it is of?" in said
    assert "cross_attention/value/kernel: expected (3, 128, 128), found (1, 32, 32)" in said
    deaf = checked(trained, store, "INPUT_MODALITIES=('text', 'image', 'audio')")
    assert deaf == (
        "the checkpoint's input_modalities are ('text', 'image'), without audio; take that out of INPUT_MODALITIES and "
        "its tasks out of TASKS, or start from a model that has it"
    )
    kept = "'input_modalities': ('text', 'image'), 'target_modalities': ('text',)"
    longer = f"train.TrainSpec.model_overrides={{{kept}, 'encoder_max_text_length': 99}}"
    assert "encoder_max_text_length is 99, the checkpoint was trained for 40" in checked(trained, store, longer)


def test_a_folder_that_another_recipe_has_is_refused_with_what_differs(store, tmp_path):
    from uio2.train.model_dir import claim, objection

    found = settings([LARGE, REFEXP], [], store=store)
    folder = tmp_path / "out"
    assert objection(folder, found.text()) is None
    claim(folder, found.text())
    assert objection(folder, found.text()) is None
    other = dataclasses.replace(found, train=dataclasses.replace(found.train, steps=9))
    assert "TrainSpec.steps = 8000; +train.TrainSpec.steps = 9" in objection(folder, other.text())
    assert "holds files of something else" in objection(tmp_path, found.text())


def test_a_dry_run_for_a_cluster_checks_everything_and_prints_the_manifest(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UIO2_HOME", str(tmp_path / "store"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text("{}")
    flags = ["train", f"--gin_file={REFEXP}", f"--gin.INITIAL_CHECKPOINT='{trained / 'model'}'", "--dry_run",
             "--gin.TASKS={'refcoco_unc': 1}", "--gin.TEXT_INPUTS=20", "--dataset", f"refcoco={tmp_path / 'data'}",
             "--launcher", "k8s", "--image", "registry/uio2", "--topology", "v5e:4x8", "--slices", "2"]  # fmt: skip
    assert main(flags) == 2
    assert "--launcher k8s needs --claim" in capsys.readouterr().err
    assert main([*flags, "--claim", "store", "--gin.BATCH_SIZE=48"]) == 2
    assert "BATCH_SIZE is 48; expected a multiple of the 64 devices" in capsys.readouterr().err
    assert main([*flags, "--claim", "store"]) == 0
    said = capsys.readouterr()
    manifest = yaml.safe_load(said.out)
    assert manifest["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert "train.TrainSpec.batch_size = 128" in said.err
    assert not (tmp_path / "store" / "artifacts" / "finetune").exists()
