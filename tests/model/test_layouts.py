"""A checkpoint is what its folder holds: told apart, compared with a config and loaded alike."""

from __future__ import annotations

import dataclasses

import pytest

from tests.model.checkpoints import SMALL, random_tree, same_arrays
from uio2.model.checkpoint import layouts, t5x, tree
from uio2.model.checkpoint.tree import CheckpointError

PART = dataclasses.replace(SMALL, input_modalities=("text", "image"), target_modalities=("text",))


@pytest.fixture(scope="module")
def model():
    return t5x.from_tree(random_tree(SMALL), config=SMALL)


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """The same model in every layout."""
    root = tmp_path_factory.mktemp("layouts")
    for layout in layouts.LAYOUTS:
        layouts.save(model, root / layout, layout=layout)
    return root


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_each_layout_is_known_by_what_it_holds_and_gives_the_same_model(folders, model, layout):
    found = layouts.find(folders / layout)
    assert found.layout == layout
    assert found.config() == (None if layout == "t5x" else SMALL)
    same_arrays(tree.flatten(found.load(config=SMALL)), tree.flatten(model))
    part = tree.flatten(found.load(config=PART))
    assert part.keys() == tree.shapes(PART).keys()
    same_arrays(part, {name: array for name, array in tree.flatten(model).items() if name in part})


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_a_config_of_another_size_is_refused_by_shapes_alone(folders, layout):
    found = layouts.find(folders / layout)
    found.check(SMALL)
    found.check(PART)
    with pytest.raises(CheckpointError, match="do not fit the model config:\n  misshapen"):
        found.check(dataclasses.replace(SMALL, mlp_dim=44))


def test_the_folder_of_a_run_stands_for_its_only_checkpoint(folders, tmp_path):
    (tmp_path / "checkpoint_8").symlink_to(folders / "native")
    assert layouts.find(tmp_path).folder == tmp_path / "checkpoint_8"
    (tmp_path / "checkpoint_9").symlink_to(folders / "t5x")
    with pytest.raises(CheckpointError, match="name one of checkpoint_8, checkpoint_9"):
        layouts.find(tmp_path)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"not a checkpoint: it holds \['config.json'\]; expected"):
        layouts.find(tmp_path / "else")
    with pytest.raises(CheckpointError, match="exists; a checkpoint is written to a new directory"):
        layouts.save(None, folders / "native", layout="native")
