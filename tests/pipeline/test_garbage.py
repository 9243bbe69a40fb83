"""`uio2 gc` names what nothing refers to, and takes nothing else away."""

from __future__ import annotations

import json
from pathlib import Path

from uio2.cli.main import main
from uio2.pipeline.lineage import walk


def collect(store, capsys, *options: str) -> dict:
    assert main(["gc", "--store", str(store.root), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_gc_keeps_models_and_what_they_were_made_from(store, toys, run, capsys):
    first = run(toys("a/toy.ToySpec.text='one'"))
    run(toys("a/toy.ToySpec.text='one'", "b/toy.ToySpec.text='unused'", "d/toy.ToySpec.text='second'"))
    run(toys("a/toy.ToySpec.text='two'"))
    versions = sorted((store.root / "models" / "toys").glob("[0-9].json"))
    assert len(versions) == 3
    assert collect(store, capsys)["found"] == []
    versions[1].unlink()  # nobody wants the second model any more
    found = collect(store, capsys, "--delete")
    assert sorted(item["name"] for item in found["found"]) == ["toys/b", "toys/d"]
    assert not any(Path(path).exists() for path in found["removed"])
    assert len(found["removed"]) == 2
    assert {node.status for node in walk(store, "toys@1")} == {"ok"}
    assert first["a"].artifact.path.exists()


def test_without_delete_it_only_lists_and_what_runs_is_left_alone(store, toys, run, capsys):
    run(toys("b/toy.ToySpec.text='old'"))
    run(toys("b/toy.ToySpec.text='new'"))
    (store.root / "models" / "toys" / "1.json").unlink()
    found = collect(store, capsys)
    assert {item["name"] for item in found["found"]} == {"toys/b", "toys/d"}
    assert all(Path(item["path"]).exists() for item in found["found"])
    assert collect(store, capsys, "--keep", "2")["found"] == []
    assert collect(store, capsys, "--older_than", "1")["found"] == []
    lease = store.lease(found["found"][0]["fingerprint"])
    assert lease.try_acquire()
    with lease:
        removed = collect(store, capsys, "--delete")["removed"]
    assert found["found"][0]["path"] not in removed
    assert len(removed) == 1
