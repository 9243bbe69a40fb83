"""The small readers and writers below the builders: JSON streams, TFRecords, image checks."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from beam_jobs.coco_rows import checked_text
from beam_jobs.dead_letters import BadRecord
from beam_jobs.images import check_image
from beam_jobs.json_stream import stream
from beam_jobs.tfrecord import RecordError, read_records, write_record
from uio2.pipeline.stage import StageError

NASTY = Path(__file__).parents[3] / "shared" / "data" / "nasty"


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("spaces", [None, 2])
def test_a_stream_yields_the_same_items_whatever_the_chunk(tmp_path: Path, chunk: int, spaces: int | None):
    value = {
        "info": {"a": [1, {"b": "]}"}]},
        "images": [{"id": 12345678, "name": 'Zürich 图 \\ " }'}, {"id": -1.5e-3}, [], {}, "x", 1234567, None],
        "unwanted": [[1, 2], {"images": 3}, 44],
        "annotations": [],
        "last": 123,
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value, ensure_ascii=False, indent=spaces), encoding="utf-8-sig")
    found = list(stream(str(path), sections={"images", "annotations"}, chunk=chunk))
    assert found == [("images", i, item) for i, item in enumerate(value["images"])]


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2', '{"a": [1, "unfinished', '{"a": [1]} tail', '{"a": 3}', "{'a': [1]}", '{"a" [1]}']
)
@pytest.mark.parametrize("chunk", [3, 1000])
def test_a_stream_of_broken_json_ends_in_an_error_that_names_the_file(tmp_path: Path, text: str, chunk: int):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(StageError, match=r"broken\.json: not valid JSON at character"):
        list(stream(str(path), sections={"a"}, chunk=chunk))


def test_a_bad_byte_costs_one_item_and_gzip_under_another_name_is_named(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": ["good", "\xff\xfe", "Z\xc3\xbcrich"]}')
    good, bad, last = (item for _, _, item in stream(str(path), sections={"a"}, chunk=1))
    assert (checked_text(good), checked_text(last)) == ("good", "Zürich")
    with pytest.raises(BadRecord, match="not UTF-8"):
        checked_text(bad)
    path.write_bytes(gzip.compress(b'{"a": []}'))
    with pytest.raises(StageError, match="gzip data"):
        list(stream(str(path), sections={"a"}))


def test_tensorflow_reads_our_records_and_we_read_its():
    import tensorflow as tf

    records = [b"", b"one", bytes(range(256)) * 50]
    buffer = io.BytesIO()
    for record in records:
        write_record(buffer, record)
    ours = buffer.getvalue()
    with tf.io.gfile.GFile("ram://ours", "wb") as file:
        file.write(ours)
    assert [r.numpy() for r in tf.data.TFRecordDataset("ram://ours")] == records
    with tf.io.TFRecordWriter("ram://theirs") as writer:
        for record in records:
            writer.write(record)
    with tf.io.gfile.GFile("ram://theirs", "rb") as file:
        assert file.read() == ours


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-3], lambda b: b[:5], lambda b: b[:14] + b"X" + b[15:], lambda b: b"X" + b[1:]]
)
def test_a_damaged_record_file_is_noticed(spoil):
    buffer = io.BytesIO()
    write_record(buffer, b"some data that matters")
    with pytest.raises(RecordError, match=r"shard-0: bad record .* at byte 0"):
        list(read_records(io.BytesIO(spoil(buffer.getvalue())), name="shard-0"))


def _encoded(image: Image.Image, format_: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def _png_header(width: int, height: int) -> bytes:
    def block(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + block(b"IDAT", b"")
    )


def test_good_images_pass_with_their_facts():
    facts = check_image(_encoded(Image.new("RGB", (30, 20)), "JPEG"), max_pixels=600)
    assert (facts.width, facts.height, facts.format, facts.orientation) == (30, 20, "JPEG", 1)
    assert check_image(_encoded(Image.new("L", (3, 2)), "PNG"), max_pixels=600).mode == "L"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"plain text", "not_an_image"),
        (_encoded(Image.new("RGB", (30, 20)), "GIF"), "unsupported_format"),
        (_encoded(Image.new("CMYK", (30, 20)), "JPEG"), "unsupported_mode"),
        (_encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-300], "undecodable"),
        # Judged by its header: decoding it would take 30 GB.
        (_png_header(100_000, 100_000), "too_many_pixels"),
    ],
)
def test_bad_images_are_refused_with_a_reason(data: bytes, reason: str):
    with pytest.raises(BadRecord) as caught:
        check_image(data, max_pixels=1_000_000)
    assert caught.value.reason == reason


@pytest.mark.skipif(not NASTY.is_dir(), reason="the corpus of bad files is not at hand")
def test_the_corpus_of_bad_images_neither_crashes_nor_passes_what_does_not_decode():
    rows = [json.loads(line) for line in (NASTY / "manifest.jsonl").read_text().splitlines()]
    images = [row for row in rows if row["file"].startswith("images/")]
    assert images
    for row in images:
        refused = None
        try:
            check_image((NASTY / row["file"]).read_bytes(), max_pixels=50_000_000)
        except BadRecord as bad:
            refused = bad
        if refused is None:
            assert row["pillow"]["ok"], row
        else:
            assert refused.reason
            assert refused.error
