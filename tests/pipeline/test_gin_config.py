"""gin text to specs: values, scopes, and one clear error for everything that cannot be meant."""

from __future__ import annotations

import pytest

from tests.pipeline.toy_stages import NeedySpec, ToySpec
from uio2.pipeline.gin_arguments import split_gin_arguments
from uio2.pipeline.gin_config import GinConfig, operative_text
from uio2.pipeline.stage import UsageError, spec_from_json, spec_to_json

TEXT = """
from __gin__ import dynamic_registration
import tests.pipeline.toy_stages as toy
FILES = 4
toy.ToySpec.files = %FILES
small/toy.ToySpec.text = 's'
toy.NeedySpec.inner = @toy.ToySpec()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.gin"
    path.write_text(TEXT)
    return str(path)


def test_bindings_override_files_and_scopes_apply_inside(file):
    config = GinConfig.parse([file], ["FILES=7", "toy.ToySpec.factor=2"])
    assert config.spec(ToySpec) == ToySpec(files=7, factor=2.0)
    assert config.spec(ToySpec, scope="small") == ToySpec(files=7, factor=2.0, text="s")


def test_each_parse_starts_from_nothing(file):
    GinConfig.parse([file], ["toy.ToySpec.sleep=1.0"])
    assert GinConfig.parse([file]).spec(ToySpec).sleep == 0.0


def test_nested_specs_survive_json(file):
    spec = GinConfig.parse([file], ["toy.NeedySpec.path='p'"]).spec(NeedySpec)
    assert spec == NeedySpec(path="p", inner=ToySpec(files=4))
    assert spec_from_json(NeedySpec, spec_to_json(spec)) == spec


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("toy.ToySpec.flies=1", "no parameter 'flies'; did you mean 'files'"),
        ("toy.ToySpek.files=1", "'toy.ToySpek' does not exist; did you mean 'toy.ToySpec'"),
        ("toi.ToySpec.files=1", "imports 'toi'; did you mean 'toy'"),
        ("FILS=1", "no binding uses FILS; did you mean 'FILES'"),
        ("toy.ToySpec.files=%FIELS", "macro %FIELS is not defined; did you mean 'FILES'"),
        ("toy.ToySpec.text=word", "a text needs quotes: --gin.toy.ToySpec.text=\"'word'\""),
        ("toy.ToySpec.files='many'", "toy.ToySpec.files = 'many' is str, expected int"),
        ("toy.NeedySpec.size=3", "toy.NeedySpec.size = 3 is int, expected tuple"),
        ("toy.ToySpec.files", "expected --gin.NAME=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_named(file, binding, message):
    with pytest.raises(UsageError) as caught:
        resolve(file, "toy.NeedySpec.path='p'", binding)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def resolve(file, *bindings):
    """Both specs, for their errors."""
    config = GinConfig.parse([file], bindings)
    return config.spec(ToySpec), config.spec(NeedySpec)


def test_required_field_and_missing_file_are_named(file):
    with pytest.raises(UsageError, match=r"--gin.toy.NeedySpec.path=VALUE"):
        GinConfig.parse([file]).spec(NeedySpec)
    with pytest.raises(UsageError, match=r"did you mean .*digits\.gin"):
        GinConfig.parse(["configs/pipelines/digts.gin"])


def test_a_binding_no_stage_reads_is_an_error(file):
    config = GinConfig.parse([file], ["other/toy.ToySpec.files=3"])
    config.spec(ToySpec)
    config.spec(ToySpec, scope="small")
    with pytest.raises(UsageError, match="remove the binding of other/ToySpec"):
        config.check_used(pipeline="p", own=file)


def test_operative_text_lists_every_value(toys):
    text = operative_text(toys("b/toy.ToySpec.files=9"))
    assert "b.files = 9\n" in text
    assert "a.files = 3\n" in text
    assert "d.text = 'x'\n" in text


def test_gin_arguments_are_taken_out_of_a_command_line():
    arguments = ["run", "--gin.A=1", "--gin.b/c.D.e", "'x=y'", "--json"]
    assert split_gin_arguments(arguments) == (["run", "--json"], ["A=1", "b/c.D.e='x=y'"])
