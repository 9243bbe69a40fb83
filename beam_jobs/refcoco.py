"""Stage `build-refcoco`: the `ref_coco` dataset, one example per (split, image) with its referring expressions.

    image: original JPEG bytes    image/id: int64
    coco_annotations: [{area, bbox, id, label}]                       every object of the image, by id
    objects: [{area, bbox, gt_box_index, id, label, refexp: [{raw, refexp_id}]}]   one per reference, by ref_id

As in TFDS `ref_coco`, boxes are (ymin, xmin, ymax, xmax) in 0..1, labels are COCO category ids, and `gt_box_index`
points into `coco_annotations`. Areas are pixels of the stored image, which `max_side` may have made smaller. Sources
are REFER's folders: `refs(SPLIT_BY).json` or `.p`, with `instances.json` beside it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_jobs import coco_rows, refer_pickle, sources
from beam_jobs.build import build_as
from beam_jobs.coco_rows import field
from beam_jobs.dead_letters import BadRecord, Letter
from beam_jobs.image_files import image_bases, image_names, read_image
from beam_jobs.job import Info, Record, Row
from beam_jobs.json_stream import stream
from beam_jobs.request import BuildOptions, make
from beam_jobs.specs import BUILD_REFCOCO, RefCocoSpec
from beam_jobs.tf_example import Example
from uio2.pipeline.artifact import Artifact
from uio2.pipeline.places import AnyPlace
from uio2.pipeline.stage import StageContext, StageError

NAME = "ref_coco"
SPLITS = {"train": "train", "val": "validation", "test": "test", "testA": "testA", "testB": "testB"}
DESCRIPTION = "Referring expressions for objects of COCO images; original image bytes."
# Where nothing else is asked for, the first of these that is there.
DATASETS = ("refcoco", "refcoco+", "refcocog")
PARTITIONS = ("unc", "umd", "google")
_REFS = re.compile(r"refs\((\w+)\)\.(json|p)")


@dataclasses.dataclass(frozen=True)
class RefCocoJob:
    """Settings and paths of one build; `files` are (kind, path) with kind `refs` or `instances`."""

    files: tuple[tuple[str, str], ...]
    images: str
    folders: tuple[str, ...]
    max_pixels: int
    max_side: int | None = None
    name: str = NAME
    record_kind: str = "image"
    join_kinds: tuple[str, ...] = ("image", "object", "ref")

    def sources(self) -> Sequence[tuple[str, str]]:
        return self.files

    def read(self, source: tuple[str, str]) -> Iterator[Row | Letter | Info]:
        kind, path = source
        if kind == "refs":
            return read_refs(path)
        return read_instances(path)

    def assemble(
        self, key: int, rows: Mapping[str, Sequence[Any]], info: Mapping[str, Sequence[Any]]
    ) -> Iterator[Record | Letter]:
        if not rows["ref"]:
            return
        if not rows["image"]:
            drops = {"ref": len(rows["ref"]), "expression": sum(len(r["sentences"]) for r in rows["ref"])}
            yield Letter(
                str(key),
                "ref",
                "join",
                "image_not_listed",
                "instances.json does not list the image",
                min(r["source"] for r in rows["ref"]),
                drops,
            )
            return
        image = min(rows["image"], key=lambda r: r["source"])
        annotations = _annotations(rows["object"], image)
        index = {a["id"]: i for i, a in enumerate(annotations)}
        for split in sorted({r["split"] for r in rows["ref"]}):
            objects, letters = _objects(key, [r for r in rows["ref"] if r["split"] == split], annotations, index)
            yield from letters
            if objects:
                counts = {"image": 1, "ref": len(objects), "expression": sum(len(o["sentences"]) for o in objects)}
                value = {"id": key, "image": image, "annotations": annotations, "objects": objects}
                yield Record(split, str(key), value, counts, image["source"])

    def encode(self, record: Record) -> bytes:
        value = record.value
        image, objects = value["image"], value["objects"]
        # A folder that holds a part of COCO is an ordinary thing to give: a missing image is counted, not a fault.
        stored = read_image(
            image_bases(self.images, self.folders),
            image_names(value["id"], image["file_name"]),
            max_pixels=self.max_pixels,
            max_side=self.max_side,
            size=(image["width"], image["height"]),
            must_exist=False,
        )
        shrunk = stored.width * stored.height / (image["width"] * image["height"])
        annotations = [{**a, "area": round(a["area"] * shrunk)} for a in value["annotations"]]
        referred = [annotations[o["index"]] for o in objects]
        lengths = [len(o["sentences"]) for o in objects]
        return Example(
            ints={
                "image/id": [value["id"]],
                "coco_annotations/area": [a["area"] for a in annotations],
                "coco_annotations/id": [a["id"] for a in annotations],
                "coco_annotations/label": [a["label"] for a in annotations],
                "objects/area": [a["area"] for a in referred],
                "objects/gt_box_index": [o["index"] for o in objects],
                "objects/id": [a["id"] for a in referred],
                "objects/label": [a["label"] for a in referred],
                "objects/refexp/refexp_id/ragged_flat_values": [s["id"] for o in objects for s in o["sentences"]],
                "objects/refexp/refexp_id/ragged_row_lengths_0": lengths,
                "objects/refexp/raw/ragged_row_lengths_0": lengths,
            },
            floats={
                "coco_annotations/bbox": [v for a in annotations for v in a["bbox"]],
                "objects/bbox": [v for a in referred for v in a["bbox"]],
            },
            strings={
                "image": [stored.data],
                "objects/refexp/raw/ragged_flat_values": [s["raw"] for o in objects for s in o["sentences"]],
            },
        ).to_bytes()

    def count(self, example: Example) -> Mapping[str, int]:
        return {
            "image": 1,
            "ref": len(example.ints["objects/id"]),
            "expression": len(example.strings["objects/refexp/raw/ragged_flat_values"]),
        }

    def features(self, info: Mapping[str, Sequence[Any]]) -> Any:
        import numpy as np
        import tensorflow_datasets as tfds

        f = tfds.features
        box = {"area": np.int64, "bbox": f.BBoxFeature(), "id": np.int64, "label": np.int64}
        return f.FeaturesDict(
            {
                "image": f.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "image/id": np.int64,
                "coco_annotations": f.Sequence(box),
                "objects": f.Sequence(
                    {**box, "gt_box_index": np.int64, "refexp": f.Sequence({"raw": f.Text(), "refexp_id": np.int64})}
                ),
            }
        )


def build(options: BuildOptions) -> Artifact:
    """Builds the dataset from Python; see `beam_jobs.request`."""
    return make(BUILD_REFCOCO, options)


def job_of(spec: RefCocoSpec, roots: Mapping[str, AnyPlace]) -> RefCocoJob:
    """The job of a recipe on the files of `roots`."""
    images = sources.required(roots, "images", wanted_by="build-refcoco")
    refs = _refs(spec, roots)
    instances = refs.with_name("instances.json")
    if not instances.is_file():
        raise StageError(f"{instances}: missing; REFER keeps it beside {refs.name}")
    files = (("refs", str(refs)), ("instances", str(instances)))
    return RefCocoJob(files, str(images), sources.subfolders(images), spec.max_pixels, spec.max_side)


def run(spec: RefCocoSpec, context: StageContext) -> Mapping[str, Any]:
    """Builds `ref_coco` from the raw artifact `raw`."""
    roots = sources.roots(context.inputs["raw"])
    stats = build_as(spec, job_of(spec, roots), description=DESCRIPTION, context=context)
    refs = _refs(spec, roots)
    return {**stats, "variant": f"{refs.parent.name}_{refs_split_by(refs)}"}


def _refs(spec: RefCocoSpec, roots: Mapping[str, AnyPlace]) -> AnyPlace:
    refer = sources.required(roots, "refer", wanted_by="build-refcoco")
    return choose_refs(refer, dataset=spec.dataset, split_by=spec.split_by)


def refs_split_by(refs: AnyPlace) -> str:
    """`unc` of `refs(unc).json`."""
    match = _REFS.fullmatch(refs.name)
    if match is None:
        raise StageError(f"{refs}: expected a name such as refs(unc).json or refs(google).p")
    return match[1]


def choose_refs(refer: AnyPlace, *, dataset: str, split_by: str) -> AnyPlace:
    """The refs file asked for; with "" for either, the best known that is there. JSON is preferred to a pickle."""
    found: dict[tuple[str, str], AnyPlace] = {}
    for path in sorted(sources.walk(refer), key=lambda p: p.suffix, reverse=True):
        if m := _REFS.fullmatch(path.name):
            found[path.parent.name, m[1]] = path
    fitting = [at for at in found if dataset in ("", at[0]) and split_by in ("", at[1])]
    if not fitting:
        there = ", ".join(f"{d}/refs({s})" for d, s in sorted(found)) or "none"
        raise StageError(
            f"refer = {refer}: no refs file for dataset = {dataset!r}, split_by = {split_by!r}; there: {there}. "
            "Expected REFER's layout, for example refcoco/refs(unc).p beside refcoco/instances.json"
        )
    rank = lambda known, name: (known.index(name) if name in known else len(known), name)  # noqa: E731
    return found[min(fitting, key=lambda at: (rank(DATASETS, at[0]), rank(PARTITIONS, at[1])))]


def read_refs(path: str) -> Iterator[Row | Letter]:
    """References of a refs file, with the sentences of each."""
    for index, item in _ref_items(path):
        place = coco_rows.source_place(path, "", index)
        try:
            row, letters = _ref_row(item, place)
            yield row
            yield from letters
        except BadRecord as bad:
            sentences = item.get("sentences", []) if isinstance(item, dict) else []
            drops = {"ref": 1, "expression": len(sentences) if isinstance(sentences, list) else 0}
            key = item.get("ref_id", "?") if isinstance(item, dict) else "?"
            yield Letter(str(key), "ref", "read", bad.reason, bad.error, place, {k: n for k, n in drops.items() if n})


def _ref_items(path: str) -> Iterator[tuple[int, Any]]:
    if not path.endswith(".p"):
        return ((index, item) for _, index, item in stream(path, sections={""}))
    value = refer_pickle.load(path)
    if not isinstance(value, list):
        raise StageError(f"{path}: holds a {type(value).__name__}; expected REFER's list of references")
    return iter(enumerate(value))


def read_instances(path: str) -> Iterator[Row | Letter]:
    """Images and objects of REFER's `instances.json`; objects are context here and are not counted."""
    for section, index, item in stream(path, sections={"images", "annotations"}):
        place = coco_rows.source_place(path, section, index)
        try:
            if section == "images":
                yield coco_rows.image_row(item, place, split="", folder="")
            else:
                yield dataclasses.replace(coco_rows.object_row(item, place), counts={})
        except BadRecord as bad:
            yield Letter(
                str(item.get("id", "?") if isinstance(item, dict) else "?"),
                section,
                "read",
                bad.reason,
                bad.error,
                place,
                {},
            )


def _ref_row(item: Any, place: str) -> tuple[Row, list[Letter]]:
    """A reference with its expressions; blank ones become letters."""
    split = field(item, "split", str)
    if split not in SPLITS:
        raise BadRecord("unknown_split", f"split = {split!r}; expected one of {', '.join(SPLITS)}")
    given = [
        {"id": field(s, "sent_id", int), "raw": coco_rows.checked_text(field(s, "raw", str))}
        for s in field(item, "sentences", list)
    ]
    sentences = [s for s in given if s["raw"].strip()]
    letters = [
        Letter(str(s["id"]), "expression", "read", "empty_text", "the expression is blank", place, {"expression": 1})
        for s in given
        if not s["raw"].strip()
    ]
    if not sentences:
        raise BadRecord("no_sentences", "the reference has no expression that says anything")
    value = {
        "split": SPLITS[split],
        "ref_id": field(item, "ref_id", int),
        "ann_id": field(item, "ann_id", int),
        "sentences": sorted(sentences, key=lambda s: s["id"]),
        "source": place,
    }
    return Row(field(item, "image_id", int), "ref", value, {"ref": 1, "expression": len(sentences)}), letters


def _annotations(rows: Sequence[Mapping[str, Any]], image: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: (r["id"], r["source"])):
        try:
            box = coco_rows.normalised_box(row["bbox"], width=image["width"], height=image["height"])
        except BadRecord:
            # Context only; a reference to it is dropped below as `annotation_missing`.
            continue
        found.setdefault(row["id"], {"id": row["id"], "area": row["area"], "label": row["category"], "bbox": box})
    return list(found.values())


def _objects(
    key: int, refs: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], index: Mapping[int, int]
) -> tuple[list[dict[str, Any]], list[Letter]]:
    good, letters, seen = [], [], set()
    for ref in sorted(refs, key=lambda r: (r["ref_id"], r["source"])):
        drops = {"ref": 1, "expression": len(ref["sentences"])}
        problem = None
        if ref["ref_id"] in seen:
            problem = ("duplicate_id", f"ref_id {ref['ref_id']} occurs twice")
        elif ref["ann_id"] not in index:
            problem = (
                "annotation_missing",
                f"ann_id {ref['ann_id']} has no usable box among the image's {len(annotations)}",
            )
        seen.add(ref["ref_id"])
        if problem:
            letters.append(Letter(f"{key}/{ref['ref_id']}", "ref", "join", *problem, ref["source"], drops))
        else:
            good.append({"index": index[ref["ann_id"]], "sentences": ref["sentences"]})
    return good, letters
