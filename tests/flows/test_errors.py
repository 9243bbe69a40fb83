"""What a user gets wrong first, on the real pipelines: one message, the right exit status, no traceback."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.flows.commands import FIXTURE

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def refused(commands, tmp_path):
    """Runs a command that must fail; returns (exit status, its one message)."""

    def run(*arguments: str, store=None) -> tuple[int, str]:
        done = commands.run(*arguments, store=store or tmp_path / "store", settings={"UIO2_MLFLOW": "off"})
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        messages = re.findall(r"^uio2: error: .*", done.stderr, flags=re.MULTILINE)
        assert len(messages) == 1, done.stderr
        return done.status, done.stderr[done.stderr.index("uio2: error: ") :]

    return run


@pytest.fixture
def coco(tmp_path):
    """A private copy of the tiny COCO, to spoil."""
    shutil.copytree(FIXTURE, tmp_path / "coco")
    return tmp_path / "coco"


def test_a_missing_images_path(refused):
    arguments = ("run", "coco", "--images", "/nowhere/train2017", "--annotations", str(FIXTURE / "annotations"))
    status, message = refused(*arguments)
    assert status == 2
    assert "images: no such file or folder: /nowhere/train2017" in message


def test_an_empty_images_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ("run", "coco", "--images", str(tmp_path / "empty"), "--annotations", str(FIXTURE / "annotations"))
    status, message = refused(*arguments)
    assert status == 2
    assert f"images: {tmp_path / 'empty'} holds no files" in message


def test_a_folder_without_images_and_one_without_annotations(refused, coco):
    swapped = ("--images", str(coco / "annotations"), "--annotations", str(coco / "images"), "--no-prefect")
    status, message = refused("run", "coco", *swapped)
    assert status == 1
    assert "stage raw failed: " in message
    assert f"{coco}/" in message
    assert "no .json file" in message or "no .jpg" in message


def test_an_annotation_file_that_is_not_what_it_says(refused, coco, tmp_path):
    """One of its kinds; tests/beam_jobs/test_coco.py has the words of each."""
    spoilt = coco / "annotations" / "instances_val2017.json"
    spoilt.write_text("<html><body>404</body></html>")
    arguments = ("--images", str(coco / "images"), "--annotations", str(coco / "annotations"), "--no-prefect")
    status, message = refused("run", "coco", *arguments)
    assert status == 1
    assert f"stage build-coco failed: {spoilt}: " in message
    assert "not JSON but HTML" in message
    shown = sorted(path.parent.name for path in (tmp_path / "store" / "artifacts").glob("*/*/*"))
    assert shown == ["raw"]


def test_a_file_as_store(refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    status, message = refused("run", "digits", store=file)
    assert status == 1
    assert f"store {file} is not writable" in message
    assert "--store DIR" in message
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("binding", "words"),
    [
        ("STEPZ=3", "did you mean 'STEPS'"),
        ("train.TrainSpec.stps=3", "did you mean 'steps'"),
        ("train.TrainSpec.step=3", "TrainSpec.step is 3; expected a StepSpec"),
        ("train.TrainSpek.steps=3", "TrainSpec"),
        ("data.CocoSpec.num_shards='many'", "data.CocoSpec.num_shards = 'many' is str, expected int"),
        ("train.TrainSpec.batch_size=0", "TrainSpec.batch_size is 0; expected 1 or more"),
    ],
)
def test_a_gin_value_that_cannot_be_meant(binding, words, refused):
    status, message = refused("plan", "digits", f"--gin.{binding}")  # reads the same, and can start nothing
    assert status == 2
    assert words in message


def test_a_gin_file_that_is_not_there(refused):
    status, message = refused("plan", "digits", "--gin_file=digit.gin")
    assert status == 2
    assert "--gin_file=digit.gin: no such file" in message
