"""Stages `import` and `import-files`: the user's own folders as a raw artifact, listed and hashed but not copied.

    manifest.jsonl   one line per file as it is stored: role, path below its root, size, sha256 (of files on a store:
                     checksum, the one that the store keeps); sorted
    roots.json       role -> absolute path or URL; says where, not what, so it stays out of the digest

Inputs are sources by role. `import` takes COCO: `images` and `annotations` are required, `vqa`, `refer` and `audio` are
not, and only files a builder could read count (by suffix); the others are numbered in the stats as `ignored`.
`import-files` takes any roles, folders or single files, and all that is in them. Hashing runs at about 1.6 GB/s. An
archive is one line of the manifest; the stats count its members.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from beam_jobs import clips, sources
from beam_jobs.coco import annotation_files, vqa_files
from beam_jobs.specs import ImportFilesSpec, ImportSpec
from uio2.pipeline.artifact import Artifact, canonical_json, file_sha256
from uio2.pipeline.places import AnyPlace, Place, place
from uio2.pipeline.places.place import forget, size_of
from uio2.pipeline.sources import READ, remote_rows
from uio2.pipeline.stage import StageContext, StageError

SUFFIXES = {"annotations": (".json",), "vqa": (".json",), "refer": (".json", ".p"), "audio": (*clips.SUFFIXES, ".csv")}
REQUIRED = ("images", "annotations")
_Listed = tuple[list[AnyPlace], int]


def run(spec: ImportSpec, context: StageContext) -> Mapping[str, Any]:
    """Writes the manifest and the roots; stats hold files, bytes and ignored files per role."""
    roots = _roots(context)
    wanted = {**SUFFIXES, "images": tuple(s.lower() for s in spec.image_suffixes)}
    files = {role: _listed(root, wanted[role]) for role, root in roots.items()}
    for role, (kept, ignored) in files.items():
        if not kept:
            raise StageError(
                f"{role} = {roots[role]}: no {' or '.join(wanted[role])} file in it "
                f"({ignored} others); give the folder that holds the {role}"
            )
    annotation_files(sources.opened(roots["annotations"]))
    if "vqa" in roots:
        vqa_files(sources.opened(roots["vqa"]))
    return _publish(roots, files, context)


def run_files(spec: ImportFilesSpec, context: StageContext) -> Mapping[str, Any]:
    """The same for any roles; what belongs in them is judged by the builder that reads them."""
    roots = {role: place(artifact.uri) for role, artifact in context.inputs.items()}
    files = {}
    for role, root in roots.items():
        forget(root)
        if not root.exists():
            raise StageError(f"{role} = {root}: no such file or folder; check the path given as --{role}")
        found = list(sources.files(root))
        kept = [path for path in found if spec.hidden or not _hidden(path, root)]
        if not kept:
            raise StageError(f"{role} = {root}: no file in it ({len(found)} hidden ones); give another folder")
        files[role] = (kept, len(found) - len(kept))
    return _publish(roots, files, context)


def _hidden(path: AnyPlace, root: AnyPlace) -> bool:
    return path != root and any(part.startswith(".") for part in sources.name_below(path, root).split("/"))


def _publish(roots: Mapping[str, AnyPlace], files: Mapping[str, _Listed], context: StageContext) -> dict[str, Any]:
    stats = _write_manifest(roots, files, context)
    absolute = {role: str(root if isinstance(root, Place) else root.resolve()) for role, root in roots.items()}
    (context.out / sources.ROOTS).write_text(json.dumps(absolute, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return stats


def _roots(context: StageContext) -> dict[str, AnyPlace]:
    for role in REQUIRED:
        if role not in context.inputs:
            raise StageError(f"{role}: not given; give --{role} DIR")
    roots = {role: place(context.inputs[role].uri) for role in sources.ROLES if role in context.inputs}
    for role, root in roots.items():
        forget(root)
        if not root.exists():
            raise StageError(f"{role} = {root}: no such folder; check the path given as --{role}")
        if not sources.opened(root).is_dir():
            raise StageError(f"{role} = {root}: a file; give the folder or archive that holds it as --{role}")
    return roots


def _listed(root: AnyPlace, suffixes: tuple[str, ...]) -> _Listed:
    """Files that a builder could read, or archives that hold some; and how many others there are."""
    stored: dict[AnyPlace, None] = {}
    ignored = 0
    for path in sources.walk(sources.opened(root)):
        if path.suffix.lower() in suffixes:
            stored[sources.stored(path)] = None
        else:
            ignored += 1
    return list(stored), ignored


def _write_manifest(
    roots: Mapping[str, AnyPlace], files: Mapping[str, _Listed], context: StageContext
) -> dict[str, Any]:
    total = sum(len(kept) for kept, _ in files.values())
    done, stats = 0, {}
    with open(context.out / "manifest.jsonl", "w", encoding="utf-8") as manifest:
        for role in sorted(files):
            kept, ignored = files[role]
            root, number, size = roots[role], 0, 0
            known = _checksums(root, context.inputs[role])
            for path in kept:
                name = path.name if path == root else sources.name_below(path, root)
                length = size_of(path)
                told = {"checksum": known[name]} if isinstance(path, Place) else {"sha256": file_sha256(path)}
                manifest.write(canonical_json({"role": role, "path": name, "size": length, **told}) + "\n")
                members = _members(path)
                number += members
                size += length
                done += 1
                context.progress(done, total, f"hashing {role}")
            stats[role] = {"files": number, "bytes": size, "ignored": ignored}
    return stats


def _checksums(root: AnyPlace, source: Artifact) -> dict[str, str]:
    """What identifies the files of a remote source, by path below it."""
    if not isinstance(root, Place):
        return {}
    return {name: told for name, _, told in remote_rows(str(root), known=dict(source.stats.get(READ, {})))}


def _members(path: AnyPlace) -> int:
    """How many files a stored one stands for."""
    folder = sources.opened(path)
    return 1 if folder == path else sum(1 for _ in sources.files(folder))
