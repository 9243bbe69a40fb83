"""Published checkpoints, as files."""

import tarfile

import pytest

from tests.model.reference import GOLDEN


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """The T5X checkpoint a training run of the original wrote."""
    folder = tmp_path_factory.mktemp("t5x")
    with tarfile.open(GOLDEN / "t5x_checkpoint.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "checkpoint_2"
