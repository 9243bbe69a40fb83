"""A version stands for one recipe: another one under the same name is told, or refused on request."""

from __future__ import annotations

from uio2.cli.main import main

TOYS = "tests.pipeline.toy_flow"


def run(store, capsys, *options: str) -> tuple[int, str]:
    status = main(["run", TOYS, "--store", str(store.root), "--no-prefect", *options])
    return status, capsys.readouterr().err


def test_another_recipe_under_a_version_is_told_and_refused_on_request(store, capsys):
    assert run(store, capsys)[0] == 0
    other = "--gin.b/toy.ToySpec.text='other'"
    status, said = run(store, capsys, "--strict", other)
    assert status == 1
    assert "toys/b@1 was made by another recipe: spec.text: 'b' -> 'other'" in said
    assert store.newest("toys/b")[0]["spec"]["text"] == "b"
    status, said = run(store, capsys, other)
    assert status == 0
    assert "toys/b@1 was made by another recipe: spec.text: 'b' -> 'other'" in said
    assert "toys/d@1 was made" not in said  # its recipe is the same, what it reads is not


def test_a_version_of_its_own_is_no_conflict(store, capsys):
    assert run(store, capsys)[0] == 0
    status, said = run(store, capsys, "--strict", "--recipe_version", "wide", "--gin.b/toy.ToySpec.text='other'")
    assert status == 0, said
    assert store.newest("toys/b", version="wide")[0]["spec"]["text"] == "other"
    assert store.newest("toys/a")[0]["version"] == "1"  # equal to what is there: reused
    assert run(store, capsys, "--recipe_version", "a/b", "--gin.SLEEP=0.01")[0] == 2
