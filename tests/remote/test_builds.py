"""Sources on stores and in archives: the same content gives the same bytes, wherever it lies."""

from __future__ import annotations

import json
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from beam_jobs.specs import (
    BUILD_COCO,
    BUILD_IMAGE_TEXT,
    BUILD_INSTRUCTIONS,
    BUILD_REFCOCO,
    BUILD_SPEECH,
    BUILD_VIDEO,
    IMPORT_FILES,
    IMPORT_RAW,
    CocoSpec,
    ImageTextSpec,
    ImportFilesSpec,
    ImportSpec,
    InstructionsSpec,
    RefCocoSpec,
    SpeechSpec,
    VideoSpec,
)
from tests.beam_jobs.conftest import FIXTURE, lines, picture, run_stage
from tests.beam_jobs.test_audio_tags import clip
from tests.remote.conftest import Stores
from uio2.pipeline.artifact import SOURCE, Artifact

COCO = {role: role for role in ("images", "annotations", "vqa", "refer")}
ZIPPED = {"images": "images", "annotations": "annotations_trainval2017.zip", "vqa": "vqa", "refer": "refer.zip"}


def source(url: str) -> Artifact:
    """Files from outside the store, as a stage gets them."""
    return Artifact(SOURCE, "test", "", url, "")


def imported(folder: Path, base: str, names: dict[str, str], *, slash: str = "") -> Artifact:
    """What lies below a path or URL, as COCO."""
    ends = {role: "" if name.endswith(".zip") else slash for role, name in names.items()}
    inputs = {role: source(f"{base}/{name}{ends[role]}") for role, name in names.items()}
    raw = run_stage(IMPORT_RAW, ImportSpec(), folder / "raw", **inputs)
    assert raw.stats["images"]["files"] == 24
    return raw.artifact


def coco(folder: Path, raw: Artifact) -> dict[str, bytes]:
    """The files of the dataset `coco_all`."""
    return run_stage(BUILD_COCO, CocoSpec(num_shards=2), folder / "coco", raw=raw).shards()


def refcoco(folder: Path, raw: Artifact) -> dict[str, bytes]:
    """The files of the dataset `ref_coco`."""
    return run_stage(BUILD_REFCOCO, RefCocoSpec(num_shards=1), folder / "refcoco", raw=raw).shards()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("local")
    raw = imported(folder, str(FIXTURE), COCO)
    return coco(folder, raw), refcoco(folder, raw)


@pytest.mark.parametrize("where", ["local zips", "gs", "gs zips", "s3 zips", "web", "web zips"])
def test_coco_is_the_same_wherever_it_lies(stores: Stores, local, where: str, tmp_path: Path):
    scheme, _, zips = where.partition(" ")
    base = {"local": str(stores.folder), "gs": stores.gs, "s3": stores.s3, "web": stores.web}[scheme]
    slash = "/" if scheme == "web" else ""
    raw = imported(tmp_path, f"{base}/{zips or 'coco'}", ZIPPED if zips else COCO, slash=slash)
    assert coco(tmp_path, raw) == local[0]
    if where == "gs zips":
        assert refcoco(tmp_path, raw) == local[1]


def test_a_table_and_a_tar_are_read_where_they_lie(stores: Stores, tmp_path: Path):
    rows = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(20)]
    stores.put("text/alpaca.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    stores.put("tars/train.tar", _webdataset())
    found = []
    for number, base in enumerate((str(stores.folder), stores.gs, stores.web)):
        folder = tmp_path / str(number)
        raw = run_stage(IMPORT_FILES, ImportFilesSpec(), folder / "a", text=source(f"{base}/text/alpaca.jsonl"))
        text = run_stage(BUILD_INSTRUCTIONS, InstructionsSpec(), folder / "b", raw=raw.artifact)
        raw = run_stage(IMPORT_FILES, ImportFilesSpec(), folder / "c", images=source(f"{base}/tars/train.tar"))
        images = run_stage(BUILD_IMAGE_TEXT, ImageTextSpec(), folder / "d", raw=raw.artifact)
        assert (text.stats["records"]["instruction"]["written"], images.stats["records"]["image"]["written"]) == (20, 5)
        found.append((text.shards(), images.shards()))
    assert all(one == found[0] for one in found)


def test_clips_and_recordings_are_read_where_they_lie(stores: Stores, tmp_path: Path):
    made = tmp_path / "made"
    for number in range(6):
        picture(made / "video" / "long" / f"{number}.jpg", colour=(10 * number, 0, 0))
    clip(made / "video" / "long.wav")
    lines(made / "video" / "train.jsonl", [{"file": "long", "captions": ["it glows"], "fps": 3}])
    clip(made / "audio" / "clips" / "a.wav", 3)
    (made / "audio" / "dev.tsv").write_text("path\tsentence\na.wav\tWell.\n")
    for path in sorted(p for p in made.rglob("*") if p.is_file()):
        stores.put(f"clips/{path.relative_to(made).as_posix()}", path.read_bytes())
    found = []
    for number, (base, slash) in enumerate(((str(made), ""), (f"{stores.gs}/clips", ""), (f"{stores.web}/clips", "/"))):
        for role, type_, spec in (("video", BUILD_VIDEO, VideoSpec()), ("audio", BUILD_SPEECH, SpeechSpec())):
            at = tmp_path / f"{role}{number}"
            raw = run_stage(IMPORT_FILES, ImportFilesSpec(), at / "a", **{role: source(f"{base}/{role}{slash}")})
            found.append(run_stage(type_, spec, at / "b", raw=raw.artifact).shards())
    assert found[2:] == found[:2] * 2


def test_dead_letters_say_what_was_wrong_and_not_where_it_lay(stores: Stores, tmp_path: Path):
    good = (FIXTURE / "images" / "train2017" / "000000000001.jpg").read_bytes()
    rows = [{"file": file, "text": "t"} for file in ("a.jpg", "gone.jpg", "../evil.jpg", "cut.jpg")]
    folder = {"a.jpg": good, "cut.jpg": good[:900], "rows.jsonl": "".join(json.dumps(r) + "\n" for r in rows).encode()}
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in folder.items():
            stores.put(f"faults/{name}", data)
            archive.writestr(name, data)
    stores.put("faults.zip", buffer.getvalue())
    spec, found = ImageTextSpec(max_dropped_fraction=1.0), []
    for number, url in enumerate((f"{stores.folder}/faults", f"{stores.folder}/faults.zip", f"{stores.gs}/faults")):
        at = tmp_path / str(number)
        raw = run_stage(IMPORT_FILES, ImportFilesSpec(), at / "a", images=source(url))
        built = run_stage(BUILD_IMAGE_TEXT, spec, at / "b", raw=raw.artifact)
        assert built.reasons() == {"gone.jpg": "image_missing", "../evil.jpg": "path_escape", "cut.jpg": "undecodable"}
        found.append(built.shards())
    assert found[1:] == found[:1] * 2


def _webdataset() -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted((FIXTURE / "images" / "train2017").iterdir())[:5]:
            for name, data in ((path.name, path.read_bytes()), (f"{path.stem}.txt", b"digits")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
    return buffer.getvalue()
