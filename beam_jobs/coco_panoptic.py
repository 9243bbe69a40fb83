"""Stage `build-coco-panoptic`: the `coco_panoptic` dataset, one example per image with a map of its segments.

    image: original JPEG bytes    image/filename: text    image/id: int64
    panoptic: original PNG bytes, of the image's size; a pixel's segment is R + 256 G + 65536 B, 0 = none
    segments: [{area, bbox (ymin, xmin, ymax, xmax in 0..1), id, is_crowd, is_thing, label}]      by id

Sources are COCO's `panoptic_SPLIT.json` with the folder `panoptic_SPLIT/` of maps beside it. A map and its list must
name the same segments.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from beam_jobs import coco_rows, sources
from beam_jobs.build import build_as
from beam_jobs.coco import SPLITS, SourceFile, category_names, labels
from beam_jobs.coco_rows import field, source_place
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.image_files import image_bases, image_names, read_file, read_image
from beam_jobs.images import check_image
from beam_jobs.job import Info, Record, Row
from beam_jobs.json_stream import stream
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_COCO_PANOPTIC, CocoPanopticSpec
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext, StageError

NAME = "coco_panoptic"
DESCRIPTION = "COCO images with panoptic segments; original bytes of images and maps."
_ANNOTATIONS = re.compile(r"panoptic_((train|val)\d*)\.json")


@dataclasses.dataclass(frozen=True)
class PanopticJob:
    """Settings and paths of one build; `folders` are those below `images`."""

    files: tuple[SourceFile, ...]
    images: str
    folders: tuple[str, ...]
    max_pixels: int
    name: str = NAME
    record_kind: str = "image"
    join_kinds: tuple[str, ...] = ("image", "map")

    def sources(self) -> Sequence[SourceFile]:
        return self.files

    def read(self, source: SourceFile) -> Iterator[Row | Letter | Info]:
        for section, index, item in stream(source.path, sections={"images", "annotations", "categories"}):
            place, kind = source_place(source.path, section, index), "image" if section == "images" else "map"
            try:
                if section == "categories":
                    yield Info("category", {"id": field(item, "id", int), "name": field(item, "name", str)})
                    yield Info("thing", [field(item, "id", int), field(item, "isthing", int)])
                elif kind == "image":
                    yield coco_rows.image_row(item, place, split=source.split, folder=source.folder)
                else:
                    yield _map_row(item, place, maps=source.path.removesuffix(".json"))
            except BadRecord as bad:
                yield Letter(place, kind, "read", bad.reason, bad.error, place, {kind: 1})

    def assemble(
        self, key: int, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        maps = sorted(rows["map"], key=lambda r: r["source"])
        if not rows["image"] or not maps:
            kind, missing = ("image", "map") if rows["image"] else ("map", "image")
            drops = {kind: len(rows[kind]), **({} if rows["image"] else {"segment": _count(maps)})}
            place = min(row["source"] for row in rows[kind])
            yield Letter(str(key), kind, "join", f"{missing}_not_listed", f"no {missing} of it", place, drops)
            return
        image, letters = coco_rows.one_image(key, rows["image"])
        yield from letters
        for row in maps[1:]:
            drops = {"map": 1, "segment": _count([row])}
            yield Letter(str(key), "map", "join", "duplicate_map", f"also {maps[0]['source']}", row["source"], drops)
        known, things = labels(info), dict(info.get("thing", ()))

        def make(row: Mapping[str, Any]) -> dict[str, Any]:
            if row["category"] not in known:
                raise BadRecord("unknown_category", f"category_id = {row['category']} is not in the categories section")
            box = coco_rows.normalised_box(row["bbox"], width=image["width"], height=image["height"])
            return {**row, "bbox": box, "label": known[row["category"]], "thing": things[row["category"]]}

        segments, letters = coco_rows.joined(key, maps[0]["segments"], "segment", make)
        yield from letters
        value = {"id": key, "image": image, "map": maps[0], "segments": segments}
        counts = {"image": 1, "map": 1, "segment": len(segments)}
        yield Record(image["split"], str(key), value, {k: n for k, n in counts.items() if n}, image["source"])

    def encode(self, record: Record) -> bytes:
        image, segments, chart = record.value["image"], record.value["segments"], record.value["map"]
        size = (image["width"], image["height"])
        bases = image_bases(self.images, (image["folder"], *self.folders))
        names = image_names(record.value["id"], image["file_name"])
        data = read_image(bases, names, max_pixels=self.max_pixels, max_side=None, size=size).data
        stored = read_file([chart["folder"]], [chart["file_name"]], kind="map")
        _check_map(stored, [segment["id"] for segment in chart["segments"]], size=size, max_pixels=self.max_pixels)
        return Example(
            ints={
                "image/id": [record.value["id"]],
                "segments/area": [s["area"] for s in segments],
                "segments/id": [s["id"] for s in segments],
                "segments/is_crowd": [s["crowd"] for s in segments],
                "segments/is_thing": [s["thing"] for s in segments],
                "segments/label": [s["label"] for s in segments],
            },
            floats={"segments/bbox": [v for s in segments for v in s["bbox"]]},
            strings={"image": [data], "image/filename": [image["file_name"]], "panoptic": [stored]},
        ).to_bytes()

    def count(self, example: Example) -> Mapping[str, int]:
        return {"image": 1, "map": 1, "segment": len(example.ints["segments/id"])}

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import tensorflow_datasets as tfds

        f = tfds.features
        segment = {"area": np.int64, "bbox": f.BBoxFeature(), "id": np.int64, "is_crowd": np.bool_,
                   "is_thing": np.bool_, "label": f.ClassLabel(names=list(category_names(info).values()))}  # fmt: skip
        image = f.Image(shape=(None, None, 3), encoding_format="jpeg")
        return f.FeaturesDict({"image": image, "image/filename": f.Text(), "image/id": np.int64,
                               "panoptic": f.Text(), "segments": f.Sequence(segment)})  # fmt: skip


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_COCO_PANOPTIC, options)


def job_of(spec: CocoPanopticSpec, roots: Mapping[str, AnyPlace]) -> PanopticJob:
    """The job of a recipe on the files of `roots`."""
    images = sources.required(roots, "images", wanted_by="build-coco-panoptic")
    annotations = sources.required(roots, "annotations", wanted_by="build-coco-panoptic")
    found = [(match, path) for path in sources.walk(annotations) if (match := _ANNOTATIONS.fullmatch(path.name))]
    if not found:
        raise StageError(
            f"annotations = {annotations}: no panoptic_SPLIT.json; expected COCO's panoptic annotations, for example "
            "panoptic_val2017.json with the folder panoptic_val2017/ beside it"
        )
    files = tuple(SourceFile("panoptic", str(path), SPLITS[match[2]], match[1]) for match, path in found)
    return PanopticJob(files, str(images), sources.subfolders(images), spec.max_pixels)


def run(spec: CocoPanopticSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `coco_panoptic` from the raw artifact `raw`."""
    job = job_of(spec, sources.roots(context.inputs["raw"]))
    return build_as(spec, job, description=DESCRIPTION, context=context)


def _map_row(item: Any, place: str, *, maps: str) -> Row:
    segments = [
        {
            "id": field(segment, "id", int),
            "category": field(segment, "category_id", int),
            "bbox": coco_rows.checked_box(field(segment, "bbox", list)),
            "area": field(segment, "area", int),
            "crowd": int(bool(segment.get("iscrowd", 0))),
            "source": place,
        }
        for segment in field(item, "segments_info", list)
    ]
    value = {"folder": maps, "file_name": field(item, "file_name", str), "segments": segments, "source": place}
    counts = {"map": 1, "segment": len(segments)}
    return Row(field(item, "image_id", int), "map", value, {k: n for k, n in counts.items() if n})


def _count(maps: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(row["segments"]) for row in maps)


def _check_map(data: bytes, listed: Sequence[int], *, size: tuple[int, int], max_pixels: int) -> None:
    try:
        facts = check_image(data, max_pixels=max_pixels)
    except BadRecord as bad:
        raise BadRecord(f"map_{bad.reason}", bad.error) from bad
    if (facts.format, facts.mode) != ("PNG", "RGB"):
        raise BadRecord("map_mode", f"{facts.format} of mode {facts.mode}; expected PNG of mode RGB")
    if (facts.width, facts.height) != size:
        raise BadRecord("map_size", f"the map is {facts.width} x {facts.height}, the image {size[0]} x {size[1]}")
    pixels = np.asarray(Image.open(io.BytesIO(data))).astype(np.int64)
    there = set(np.unique(pixels @ np.array([1, 256, 65536])).tolist()) - {0}
    if there != set(listed):
        only = sorted(there ^ set(listed))
        raise BadRecord("segments_disagree", f"{len(only)} segments are in the map or the list alone: {only[:3]}")
