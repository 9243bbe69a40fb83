"""What stores and archives can do wrong, and what must not be given away."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from beam_jobs import sources
from beam_jobs.specs import IMPORT_FILES, ImportFilesSpec
from tests.beam_jobs.conftest import run_stage
from tests.remote.conftest import Stores
from uio2.pipeline.places import place, remote
from uio2.pipeline.sources import source_artifact, source_digest
from uio2.pipeline.stage import Source, StageError, UsageError
from uio2.pipeline.store import Store

DATA = bytes(range(256)) * 500


def test_errors_that_pass_are_waited_out_and_others_end_with_the_address(stores: Stores):
    stores.put("a/b.bin", DATA)
    assert place(f"{stores.web}/flaky/3/a/b.bin").read_bytes() == DATA
    assert place(f"{stores.web}/cut/a/b.bin").read_bytes() == DATA
    assert place(f"{stores.web}/whole/a/b.bin").read_bytes() == DATA
    with pytest.raises(StageError, match=r"/gone-dead/a: cannot be read, tried 5 times .*503.*; run again later"):
        place(f"{stores.web}/gone-dead/a").read_bytes()
    for base in (stores.gs, stores.s3, stores.web):
        with pytest.raises(UsageError, match="/a/none: no such file or folder; check the address"):
            place(f"{base}/a/none").read_bytes()


def test_only_the_host_that_was_given_is_asked(stores: Stores):
    stores.put("a/b.bin", DATA)
    with pytest.raises(StageError, match=r"leads on to http://localhost:.*, another host"):
        place(f"{stores.web}/away/a/b.bin").read_bytes()
    assert [str(p) for p in sources.walk(place(f"{stores.web}/a/"))] == [f"{stores.web}/a/b.bin"]
    for url in ("http://example.com/a.zip", "ftp://example.com/a.zip", "file:///etc/passwd", "gs://"):
        with pytest.raises(UsageError, match="expected a local path or gs://"):
            Source(url)


def test_what_a_url_is_signed_with_is_recorded_nowhere(stores: Stores, tmp_path: Path, monkeypatch):
    monkeypatch.setenv(remote.QUERIES, "{}")
    stores.put("a/rows.jsonl", b'{"instruction": "a", "output": "b"}\n')
    given = Source(f"{stores.web}/signed/a/rows.jsonl?sig=secret")
    artifact = source_artifact(given, store=Store(tmp_path / "store"), name="text")
    built = run_stage(IMPORT_FILES, ImportFilesSpec(), tmp_path / "raw", text=artifact)
    assert built.stats["text"]["files"] == 1
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"signed/a/rows.jsonl" in written
    assert b"secret" not in written + repr((given, artifact)).encode()
    wrong = Source(f"{stores.web}/signed/a/rows.jsonl?sig=mistyped")
    with pytest.raises(UsageError, match="may not be read with the credentials at hand") as caught:
        source_artifact(wrong, store=Store(tmp_path / "store"), name="text")
    assert "mistyped" not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(UsageError, match="a user or password in a URL would be recorded"):
        Source("https://someone:hunter2@example.com/a.zip")


def test_a_digest_follows_the_content_on_the_store(stores: Stores, tmp_path: Path):
    store = Store(tmp_path)

    def digest(base: str) -> str:
        return source_artifact(Source(f"{base}/d"), store=store, name="text").digest

    stores.put("d/x/1.txt", b"one")
    stores.put("d/2.txt", b"two")
    before = [digest(stores.gs), digest(stores.s3)]
    assert [digest(stores.gs), digest(stores.s3)] == before
    stores.put("d/2.txt", b"tow")
    after = [digest(stores.gs), digest(stores.s3)]
    assert all(a != b for a, b in zip(after, before, strict=True))
    stores.put("d/2.txt", b"two")
    assert [source_digest(f"{stores.gs}/d"), source_digest(f"{stores.s3}/d")] == before
    assert source_digest(f"{stores.gs}/gone") is None


def _archive(path: Path, name: str, data: bytes = b"x", *, link: bool = False) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
            archive.writestr("good.txt", b"good")
        return path
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 0 if link else len(data)
        info.type, info.linkname = (tarfile.SYMTYPE, "/etc/passwd") if link else (tarfile.REGTYPE, "")
        archive.addfile(info, None if link else io.BytesIO(data))
        info = tarfile.TarInfo("good.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"good"))
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_archive_is_a_folder_that_nothing_leads_out_of(tmp_path: Path, suffix: str):
    root = sources.opened(_archive(tmp_path / f"a{suffix}", "sub/one.txt", b"1" * 100_000))
    assert [p.name for p in sources.walk(root)] == ["good.txt", "one.txt"]
    assert sources.read_bytes(f"{root}/sub/one.txt") == b"1" * 100_000
    with sources.open_binary(f"{root}/sub/one.txt") as file:
        file.seek(99_998)
        assert file.read() == b"11"
        file.seek(5)
        assert file.read(2) == b"11"
    assert sources.find_file([str(root)], ["one.txt", "sub/one.txt"]) == f"{root}/sub/one.txt"
    for name in ("../a.txt", "/etc/passwd", "sub/../../x", "C:x"):
        with pytest.raises(sources.PathEscape):
            sources.find_file([str(root)], [name])
    linked = sources.opened(_archive(tmp_path / f"link{suffix}", "link.txt", b"/etc/passwd", link=True))
    assert [p.name for p in sources.walk(linked)] == ["good.txt"]
    for number, name in enumerate(("../../evil", "/etc/evil", "a/../../evil")):
        with pytest.raises(StageError, match="leads out of the archive; nothing of it is read"):
            sources.opened(_archive(tmp_path / f"evil{number}{suffix}", name))


def test_a_zip_in_a_folder_stands_for_its_members_unless_it_is_unpacked_there(tmp_path: Path):
    (tmp_path / "other").mkdir()
    _archive(tmp_path / "train.zip", "train/1.jpg")
    assert [sources.name_below(p, tmp_path) for p in sources.walk(tmp_path)] == [
        "train.zip!/good.txt",
        "train.zip!/train/1.jpg",
    ]
    assert sources.subfolders(tmp_path) == ("other", "train.zip!/train", "train.zip!")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.jpg").write_bytes(b"x")
    assert [sources.name_below(p, tmp_path) for p in sources.walk(tmp_path)] == ["train.zip", "train/1.jpg"]
    assert sources.subfolders(tmp_path) == ("other", "train")


def test_bombs_and_damaged_members_are_refused_one_by_one(tmp_path: Path):
    bomb = _archive(tmp_path / "bomb.zip", "bomb.jpg", bytes(64 << 20))
    root = sources.opened(bomb)
    with pytest.raises(OSError, match=r"a bomb, .* that claim to hold 67,108,864"):
        sources.read_bytes(f"{root}/bomb.jpg")
    assert sources.read_bytes(f"{root}/good.txt") == b"good"
    # A list that claims less than there is: what comes is cut there, and its checksum is wrong.
    lying = _archive(tmp_path / "lying.zip", "a.bin", os.urandom(5000))
    data = bytearray(lying.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02"))
    data[at + 24 : at + 28] = (100).to_bytes(4, "little")
    lying.write_bytes(data)
    with pytest.raises(OSError, match="its bytes do not give its size and checksum"):
        sources.read_bytes(f"{sources.opened(lying)}/a.bin")
    (tmp_path / "cut.zip").write_bytes(bomb.read_bytes()[:-30])
    with pytest.raises(StageError, match=r"cut\.zip: not a readable archive"):
        sources.opened(tmp_path / "cut.zip")
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(StageError, match="can only be read from its start"):
        sources.opened(tmp_path / "packed.tar.gz")


def test_the_manifest_of_a_store_holds_its_checksums(stores: Stores, tmp_path: Path):
    stores.put("m/rows.jsonl", b"{}\n")
    from tests.remote.test_builds import source

    manifests = []
    for number, base in enumerate((stores.gs, stores.s3, stores.web)):
        built = run_stage(IMPORT_FILES, ImportFilesSpec(), tmp_path / str(number), text=source(f"{base}/m/rows.jsonl"))
        manifests.append(json.loads((built.out / "manifest.jsonl").read_text()))
        assert manifests[-1]["size"] == 3
    assert [m["checksum"].partition(":")[0] for m in manifests] == ["md5", "etag", "sha256"]
