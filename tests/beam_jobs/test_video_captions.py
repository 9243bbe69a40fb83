"""`build-video`: frames from folders, animations and video files, evenly spaced, and what is said about a clip."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beam_jobs.specs import BUILD_VIDEO, VideoSpec
from tests.beam_jobs.conftest import SHARED, Built, at, lines, needs_shared, picture, pointing, run_stage
from tests.beam_jobs.test_audio_tags import clip


def _folder(path: Path, count: int, *, size: tuple[int, int] = (32, 24)) -> Path:
    """Frames whose red says their number, named without leading zeros."""
    for number in range(count):
        picture(path / f"{number}.jpg", size=size, colour=(10 * number, 0, 0))
    return path


def _reds(example: dict[str, Any]) -> list[int]:
    """The number in each frame of `_folder`."""
    return [round(np.asarray(Image.open(io.BytesIO(data)))[..., 0].mean() / 10) for data in example["frames"]]


def _examples(built: Built) -> dict[str, dict[str, Any]]:
    return {e["key"].decode(): e for split in built.stats["splits"] for e in built.examples(split)}


def test_frames_of_folders_are_evenly_spaced_and_in_order(tmp_path: Path):
    video = tmp_path / "raw" / "video"
    _folder(video / "long", 20)
    _folder(video / "short", 3)
    sound = clip(video / "long.wav")
    rows = [
        {
            "file": "long",
            "captions": ["a red one", "it glows"],
            "labels": ["arm_wrestling"],
            "qa": [{"question": "Which colour?", "answers": ["red", "dark red"]}],
            "fps": 10,
        },
        {"file": "short", "question": "How long?", "answer": "short"},
    ]
    lines(video / "train.jsonl", rows)
    spec = VideoSpec(num_frames=4)
    built = run_stage(BUILD_VIDEO, spec, tmp_path, raw=at(tmp_path / "raw"))
    long, short = (_examples(built)[key] for key in ("long", "short"))
    assert (_reds(long), _reds(short)) == ([2, 7, 12, 17], [0, 1, 2])
    assert long["frames"][0] == (video / "long" / "2.jpg").read_bytes()
    assert (long["seconds"], short["seconds"]) == (2.0, np.float32(3 / 25))
    assert (long["audio"], short["audio"]) == (sound, b"")
    assert [c.decode() for c in long["captions"]] == ["a red one", "it glows"]
    assert [t.decode() for t in long["labels"]] == ["arm wrestling"]
    assert long["qa"]["answers"].to_list() == [[b"red", b"dark red"]]
    assert short["qa"]["question"].tolist() == [b"How long?"]
    again = run_stage(BUILD_VIDEO, spec, tmp_path / "again", raw=at(tmp_path / "raw"))
    assert again.shards() == built.shards()
    built.check_counts()


def test_an_animation_is_sampled_by_time_and_scaled_down(tmp_path: Path):
    video = tmp_path / "raw" / "video"
    video.mkdir(parents=True)
    frames = [Image.new("RGB", (80, 40), (30 * number, 0, 0)) for number in range(4)]
    # The second frame lasts as long as all others together.
    frames[0].save(video / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 100, 100])
    lines(video / "val.jsonl", [{"file": "a.gif", "caption": "it changes"}])
    built = run_stage(BUILD_VIDEO, VideoSpec(num_frames=2, max_side=40), tmp_path, raw=at(tmp_path / "raw"))
    (example,) = built.examples("validation")
    assert example["seconds"] == np.float32(0.6)
    assert [Image.open(io.BytesIO(data)).size for data in example["frames"]] == [(40, 20)] * 2
    # Middles of the halves are 0.15 s and 0.45 s: the second and the third frame.
    assert _reds(example) == [3, 6]


def test_clips_that_cannot_be_used(tmp_path: Path):
    video = tmp_path / "raw" / "video"
    _folder(video / "good", 2)
    _folder(video / "sizes", 1)
    picture(video / "sizes" / "9.jpg", size=(8, 8))
    (video / "empty").mkdir()
    (video / "cut").mkdir()
    (video / "cut" / "0.jpg").write_bytes((video / "good" / "0.jpg").read_bytes()[:300])
    (video / "page.mp4").write_bytes(b"<html>404</html>")
    (video / "list.mp4").write_bytes(b"#EXTM3U\n/etc/passwd\n")
    (video / "note.pdf").write_bytes(b"%PDF")
    (video / "flat.gif").write_bytes(b"GIF89a")
    names = ("sizes", "empty", "cut", "page.mp4", "list.mp4", "note.pdf", "flat.gif", "gone", "../../etc")
    rows: list[dict[str, Any]] = [{"file": name, "caption": "x"} for name in ("good", *names)]
    rows += [{"file": "good"}, {"file": "good", "caption": "x", "fps": -1}, {"file": "good", "qa": "no"}]
    rows += [{"file": "good", "question": "Why?"}]
    lines(video / "train.jsonl", rows)
    built = run_stage(BUILD_VIDEO, VideoSpec(max_dropped_fraction=0.95), tmp_path, raw=at(tmp_path / "raw"))
    assert set(_examples(built)) == {"good"}
    assert built.reasons() == {
        "sizes": "frame_sizes",
        "empty": "empty_clip",
        "cut": "undecodable",
        "page.mp4": "not_a_video",
        "list.mp4": "not_a_video",
        "note.pdf": "not_a_video",
        "flat.gif": "undecodable",
        "gone": "clip_missing",
        "../../etc": "path_escape",
        "train.jsonl:10": "empty_text",
        "train.jsonl:11": "bad_number",
        "train.jsonl:12": "wrong_type",
        "train.jsonl:13": "no_answers",
    }
    built.check_counts()


@needs_shared
def test_real_video_files_and_damaged_ones(tmp_path: Path):
    told = [json.loads(line) for line in (SHARED / "video_mini" / "manifest.jsonl").read_text().splitlines()]
    rows = [{"file": f"video_mini/{row['file']}", "caption": row["text"] or "a clip"} for row in told]
    damaged = ["video/corrupted.mp4", "video/cut_30pct.mp4", "video/html_named.mp4"]
    pictures = ["coco_animated.gif", "dispose_prev.gif", "decompression_bomb.gif", "decompression_bomb_extents.gif",
                "no_palette.gif", "anim_frame1.webp", "avif_hopper.avif", "hopper.ico"]  # fmt: skip
    damaged += [f"images/{name}" for name in pictures]
    rows += [{"file": f"nasty/{name}", "caption": "x"} for name in damaged]
    table = lines(tmp_path / "train.jsonl", rows)
    raw = pointing(tmp_path / "raw", video=SHARED, annotations=table)
    built = run_stage(BUILD_VIDEO, VideoSpec(max_dropped_fraction=0.9), tmp_path, raw=raw)
    found = _examples(built)
    frames = {row["file"]: len(found[f"video_mini/{row['file']}"]["frames"]) for row in told}
    assert frames == {row["file"]: 5 if row["file"] == "mmpose/demo.mp4" else 8 for row in told}
    assert {key for key, example in found.items() if example["audio"]} == {"video_mini/mmaction2/test.avi"}
    assert len(found["nasty/images/coco_animated.gif"]["frames"]) == 4
    assert built.reasons() == {
        "nasty/video/corrupted.mp4": "undecodable",
        "nasty/video/cut_30pct.mp4": "cut_short",
        "nasty/video/html_named.mp4": "not_a_video",
        "nasty/images/decompression_bomb.gif": "undecodable",
        "nasty/images/decompression_bomb_extents.gif": "undecodable",
        "nasty/images/hopper.ico": "not_a_video",
    }
    built.check_counts()
    again = run_stage(BUILD_VIDEO, VideoSpec(max_dropped_fraction=0.9), tmp_path / "again", raw=raw)
    assert again.shards() == built.shards()
