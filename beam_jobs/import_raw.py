"""Stages `import` and `import-files`: the user's own folders as a raw artifact, listed and hashed but not copied.

    manifest.jsonl   one line per file: role, path below its root, size, sha256; sorted
    roots.json       role -> absolute folder; says where, not what, so it stays out of the digest

Inputs are sources by role. `import` takes COCO: `images` and `annotations` are required, `vqa`, `refer` and `audio` are
not, and only files a builder could read count (by suffix); the others are numbered in the stats as `ignored`.
`import-files` takes any roles, folders or single files, and all that is in them. Hashing runs at about 1.6 GB/s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_jobs import clips, sources
from beam_jobs.coco import annotation_files, vqa_files
from beam_jobs.specs import ImportFilesSpec, ImportSpec
from uio2.pipeline.artifact import canonical_json, file_sha256
from uio2.pipeline.stage import StageContext, StageError

SUFFIXES = {"annotations": (".json",), "vqa": (".json",), "refer": (".json", ".p"), "audio": (*clips.SUFFIXES, ".csv")}
REQUIRED = ("images", "annotations")


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
    annotation_files(roots["annotations"])
    if "vqa" in roots:
        vqa_files(roots["vqa"])
    return _publish(roots, files, context)


def run_files(spec: ImportFilesSpec, context: StageContext) -> Mapping[str, Any]:
    """The same for any roles; what belongs in them is judged by the builder that reads them."""
    roots = {role: artifact.path for role, artifact in context.inputs.items()}
    files = {}
    for role, root in roots.items():
        if not root.exists():
            raise StageError(f"{role} = {root}: no such file or folder; check the path given as --{role}")
        found = list(sources.walk(root))
        kept = [path for path in found if spec.hidden or not _hidden(path, root)]
        if not kept:
            raise StageError(f"{role} = {root}: no file in it ({len(found)} hidden ones); give another folder")
        files[role] = (kept, len(found) - len(kept))
    return _publish(roots, files, context)


def _hidden(path: Path, root: Path) -> bool:
    return path != root and any(part.startswith(".") for part in path.relative_to(root).parts)


def _publish(
    roots: Mapping[str, Path], files: Mapping[str, tuple[list[Path], int]], context: StageContext
) -> dict[str, Any]:
    stats = _write_manifest(roots, files, context)
    absolute = {role: str(root.resolve()) for role, root in roots.items()}
    (context.out / sources.ROOTS).write_text(json.dumps(absolute, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return stats


def _roots(context: StageContext) -> dict[str, Path]:
    for role in REQUIRED:
        if role not in context.inputs:
            raise StageError(f"{role}: not given; give --{role} DIR")
    roots = {role: context.inputs[role].path for role in sources.ROLES if role in context.inputs}
    for role, root in roots.items():
        if not root.exists():
            raise StageError(f"{role} = {root}: no such folder; check the path given as --{role}")
        if not root.is_dir():
            raise StageError(f"{role} = {root}: a file; give the folder that holds it as --{role}")
    return roots


def _listed(root: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], int]:
    kept, ignored = [], 0
    for path in sources.walk(root):
        if path.suffix.lower() in suffixes:
            kept.append(path)
        else:
            ignored += 1
    return kept, ignored


def _write_manifest(
    roots: Mapping[str, Path], files: Mapping[str, tuple[list[Path], int]], context: StageContext
) -> dict[str, Any]:
    total = sum(len(kept) for kept, _ in files.values())
    done, stats = 0, {}
    with open(context.out / "manifest.jsonl", "w", encoding="utf-8") as manifest:
        for role in sorted(files):
            kept, ignored = files[role]
            size = 0
            for path in kept:
                length = path.stat().st_size
                row = {
                    "role": role,
                    "path": path.name if path == roots[role] else path.relative_to(roots[role]).as_posix(),
                    "size": length,
                    "sha256": file_sha256(path),
                }
                manifest.write(canonical_json(row) + "\n")
                size += length
                done += 1
                context.progress(done, total, f"hashing {role}")
            stats[role] = {"files": len(kept), "bytes": size, "ignored": ignored}
    return stats
