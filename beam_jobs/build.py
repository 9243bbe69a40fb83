"""Runs a dataset job from raw files to a verified TFDS folder, and says what came of every record.

    work/shards/, work/letters/, work/*.jsonl      what the Beam graph leaves; finished shards survive a kill
    out/<name>/<version>/                          shards, features.json, dataset_info.json
    out/dead_letters/*.jsonl                       every dropped record with its reason
    out/dead_letters/bytes/                        the bytes at fault, where they are asked for
    out/accounting.json                            per kind: in = written + dropped by reason + over_limit
    out/quality.json, out/quality.html             what is in it, twice in it, or in two splits (`beam_jobs.quality`)

"Written" is counted by reading the published shards through once more, never by trusting the writers.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beam_jobs import dataflow, runs, work_files
from beam_jobs.dead_letters import BYTES, check_threshold, dropped_by_reason
from beam_jobs.job import Job
from beam_jobs.quality.layout import Layout, layout_of
from beam_jobs.quality.looks import SUFFIX as LOOKS
from beam_jobs.quality.page import Built
from beam_jobs.quality.report import FILES, write_report
from beam_jobs.runner import stage_error_in
from beam_jobs.shards import ReadBack, Shard, group_sizes, shard_name, sweep
from beam_jobs.specs import DatasetSpec, ImageDatasetSpec
from uio2.pipeline.stage import StageContext, StageError

POLL_SECONDS = 1.0
FULL, COUNTS = "full", "counts"


def build(
    job: Job,
    *,
    num_shards: int,
    limit: int | None,
    max_dropped_fraction: float,
    version: str,
    description: str,
    context: StageContext,
    duplicates: str = "drop",
    keep_bytes: bool = False,
    max_leaked_fraction: float | None = None,
    quality: str = FULL,
) -> dict[str, Any]:
    """Builds the dataset into `context.out`; returns the stats for the record.

    Raises:
      StageError: a source is unreadable, nothing was written, too much was dropped, or the counts do not add up.
    """
    _check_settings(num_shards, limit, max_dropped_fraction, max_leaked_fraction, quality)
    work = context.work
    _clear(work)
    shared = dataflow.shared_work(job, num_shards=num_shards, limit=limit)
    with _watched(work / "shards", num_shards, context.progress), dataflow.results_in(work, shared=shared):
        run_graph(
            lambda graph, pipeline: graph.build_graph(
                pipeline,
                job,
                num_shards=num_shards,
                limit=limit,
                folder=shared or str(work),
                duplicates=duplicates,
                keep_bytes=keep_bytes,
                looks=quality == FULL,
            ),
            dataflow.options_for(job, shared=shared, packages=work / "packages"),
        )
    shutil.rmtree(work / runs.FOLDER, ignore_errors=True)
    written = [
        dataflow.fetched(Shard(**{**s, "letters": tuple(s["letters"])}), work) for s in lines(work / "written.jsonl")
    ]
    letters = letters_of(work, written)
    tally = dict(lines(work / "tally.jsonl"))
    seen = column(tally, "in")
    check_threshold(letters, seen=seen, limit=max_dropped_fraction, kept_in=str(work / "dead_letters"))
    if not sum(s.records for s in written):
        raise StageError(
            f"{job.name}: no record was written; in: {seen or 'nothing'}, "
            f"dropped: {dropped_by_reason(letters) or 'nothing'}. Check that the sources belong together"
        )
    folder = context.out / job.name / version
    shards = _publish(job, written, num_shards, folder)
    context.progress(len(shards), len(shards) + 1, "reading the shards back")
    features = _features(job, work)
    layout = layout_of(features, decode=quality == FULL)
    try:
        read = _read_back(job, layout, shards, work)
        accounting = _account(job, seen, column(tally, "over_limit"), letters, shards, read)
    except StageError:
        # The next attempt must not take the same files for finished ones.
        shutil.rmtree(work / "shards", ignore_errors=True)
        raise
    _write_metadata(job, features, folder, version, description, read)
    built = Built(job.name, version, description, shards, accounting, letters)
    figures = write_report(built, layout=layout, folder=work, max_leaked_fraction=max_leaked_fraction)
    for name in FILES:
        shutil.copyfile(work / name, context.out / name)
    shutil.copytree(work / "dead_letters", context.out / "dead_letters", dirs_exist_ok=True)
    (context.out / "accounting.json").write_text(json.dumps(accounting, indent=2, sort_keys=True) + "\n")
    if shared:
        work_files.remove(shared)
    context.progress(len(shards) + 1, len(shards) + 1, "done")
    return {
        "dataset": job.name,
        "tfds_dir": f"{job.name}/{version}",
        "splits": group_sizes(read),
        "records": accounting,
        "dead_letters": len(letters),
        "num_shards": num_shards,
        "bytes": sum(r.bytes for r in read),
        "quality": figures,
    }


def build_as(spec: DatasetSpec, job: Job, *, description: str, context: StageContext) -> dict[str, Any]:
    """`build` with the settings that the specs of all datasets have."""
    check_spec(spec)
    if side := scaled_to(spec):
        description += f" Images whose longer side was above {side} pixels are scaled to it, as JPEG of quality 92."
    return build(
        job,
        num_shards=spec.num_shards,
        limit=spec.limit,
        max_dropped_fraction=spec.max_dropped_fraction,
        version=version_of(spec),
        description=description,
        context=context,
        duplicates=spec.duplicates,
        keep_bytes=spec.dead_letter_bytes,
        max_leaked_fraction=spec.max_leaked_fraction,
        quality=spec.quality,
    )


def scaled_to(spec: DatasetSpec) -> int | None:
    """The longest side of the images of a dataset whose images may be scaled."""
    return spec.max_side if isinstance(spec, ImageDatasetSpec) else None


def version_of(spec: DatasetSpec) -> str:
    """The TFDS version; of scaled images the last number is `max_side`, unless the recipe sets one."""
    head, _, patch = spec.version.rpartition(".")
    return f"{head}.{side}" if (side := scaled_to(spec)) and patch == "0" else spec.version


def check_spec(spec: DatasetSpec) -> None:
    """StageError if a setting cannot be meant."""
    _check_settings(spec.num_shards, spec.limit, spec.max_dropped_fraction, spec.max_leaked_fraction, spec.quality)
    fraction = getattr(spec, "validation_fraction", 0.0)
    if not 0 <= fraction <= 1:
        raise StageError(f"validation_fraction = {fraction}: expected a share between 0 and 1")
    if spec.duplicates not in ("drop", "error"):
        raise StageError(f"duplicates = {spec.duplicates!r}: expected 'drop' or 'error'")
    if (side := scaled_to(spec)) is not None and side < 1:
        raise StageError(f"max_side = {side}: expected at least 1 pixel, or None to keep every file's bytes")


def _check_settings(num_shards: int, limit: int | None, dropped: float, leaked: float | None, quality: str) -> None:
    if num_shards < 1:
        raise StageError(f"num_shards = {num_shards}: expected at least 1")
    if limit is not None and limit < 1:
        raise StageError(f"limit = {limit}: expected at least 1, or None for all records")
    if not 0 <= dropped <= 1:
        raise StageError(f"max_dropped_fraction = {dropped}: expected a share between 0 and 1")
    if leaked is not None and not 0 <= leaked <= 1:
        raise StageError(f"max_leaked_fraction = {leaked}: expected a share between 0 and 1, or None for any")
    if quality not in (FULL, COUNTS):
        raise StageError(f"quality = {quality!r}: expected {FULL!r} or {COUNTS!r}")


def _clear(work: Path) -> None:
    """Removes results of an earlier attempt, except finished shards."""
    for name in ("letters", "dead_letters", runs.FOLDER):
        shutil.rmtree(work / name, ignore_errors=True)
    for path in work.glob("*.jsonl"):
        path.unlink()
    sweep(work / "shards")
    work.mkdir(parents=True, exist_ok=True)


def run_graph(add: Callable[[Any, Any], None], options: Any) -> None:
    """Runs the pipeline that `add(graph, pipeline)` makes, `graph` being `beam_jobs.graph`, with options of Beam's."""
    import apache_beam as beam

    from beam_jobs import graph

    try:
        with beam.Pipeline(options=options) as pipeline:
            add(graph, pipeline)
    except Exception as e:
        if (known := stage_error_in(e)) is not None:
            raise known from e
        raise


@contextmanager
def _watched(folder: Path, num_shards: int, progress: Callable[[int, int, str], None]) -> Iterator[None]:
    """Reports finished shards and bytes written, from the files themselves, while the graph runs."""
    stop = threading.Event()

    def report() -> None:
        while not stop.wait(POLL_SECONDS):
            found = folder.glob("*.tfrecord-*") if folder.is_dir() else ()
            files = [p for p in found if p.suffix not in (".json", LOOKS)]
            size = sum(p.stat().st_size for p in files if p.exists())
            done = sum(1 for p in files if ".tmp-" not in p.name)
            # How many splits there are is known when the sources have been read; until then this is a guess.
            progress(
                done,
                max(done + 1, num_shards),
                f"{done} shards done, {size / 1e6:.1f} MB written" if files else "reading annotations",
            )

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def lines(path: Path) -> list[Any]:
    """The values of a JSON-lines file; none when no line was written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def letters_of(work: Path, written: Sequence[Shard]) -> list[dict[str, Any]]:
    """All dropped records; also gathers them into `work/dead_letters`, one sorted file per reason."""
    texts: dict[str, list[str]] = {}
    found = work / "letters"
    for path in sorted(found.glob("*.jsonl")) if found.is_dir() else []:
        texts[path.name] = path.read_text(encoding="utf-8").split("\n")[:-1]
    for shard in written:
        for line in shard.letters:
            letter = json.loads(line)
            texts.setdefault(f"{letter['stage']}-{letter['kind']}-{letter['reason']}.jsonl", []).append(line)
    folder = work / "dead_letters"
    folder.mkdir(parents=True)
    _keep_bytes(work, folder, written)
    for name, found_there in texts.items():
        (folder / name).write_text("".join(line + "\n" for line in sorted(found_there)), encoding="utf-8")
    return [json.loads(line) for name in sorted(texts) for line in sorted(texts[name])]


def _keep_bytes(work: Path, folder: Path, written: Sequence[Shard]) -> None:
    """Puts the bytes that letters of this attempt name beside them."""
    names = {kept["file"] for shard in written for line in shard.letters if (kept := json.loads(line).get("kept"))}
    if names:
        (folder / BYTES).mkdir()
    for name in names:
        link(work / name, folder / name)


def column(tally: Mapping[str, int], name: str) -> dict[str, int]:
    """One column of the tally, `in` or `over_limit`, by kind."""
    return {key.partition("/")[2]: n for key, n in sorted(tally.items()) if key.startswith(name + "/")}


def _publish(job: Job, written: Sequence[Shard], num_shards: int, folder: Path) -> list[Shard]:
    """Puts the shards where they will stay; a split's shard that got no record is an empty file, as TFDS expects."""
    folder.mkdir(parents=True)
    by_place = {(s.split, s.index): s for s in written}
    shards = []
    for split in sorted({s.split for s in written if s.records}):
        for index in range(num_shards):
            target = folder / shard_name(job.name, split, index, num_shards)
            if (shard := by_place.get((split, index))) is None:
                target.touch()
                shards.append(Shard(split, index, str(target), 0, 0, "", ()))
                continue
            link(Path(shard.path), target)
            shards.append(Shard(split, index, str(target), shard.records, shard.bytes, shard.asked, shard.letters))
    return shards


def link(source: Path, target: Path) -> None:
    """A hard link where the file system allows, else a copy; the original stays for a next attempt."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _read_back(job: Job, layout: Layout, shards: list[Shard], work: Path) -> list[ReadBack]:
    # What is published lies on this machine, whatever machines made it.
    run_graph(
        lambda graph, pipeline: graph.verify_graph(pipeline, job, layout, shards, folder=str(work)),
        dataflow.options_here(),
    )
    read = [ReadBack(**value) for value in lines(work / "read_back.jsonl")]
    return sorted(read, key=lambda r: (r.split, r.index))


def _account(
    job: Job,
    seen: Mapping[str, int],
    over_limit: Mapping[str, int],
    letters: Sequence[Mapping[str, Any]],
    shards: Sequence[Shard],
    read: Sequence[ReadBack],
) -> dict[str, Any]:
    """Checks that nothing was lost on the way; returns the table of counts."""
    for told, found in zip(sorted(shards, key=lambda s: (s.split, s.index)), read, strict=True):
        if told.records != found.records:
            raise StageError(
                f"{told.path}: {told.records} records were written but the file holds {found.records}; "
                "run the build again"
            )
    written: dict[str, int] = {}
    for shard in read:
        for kind, n in shard.counts.items():
            written[kind] = written.get(kind, 0) + n
    dropped = dropped_by_reason(letters)
    table = {}
    for kind in sorted(set(seen) | set(written)):
        came, out, left = seen.get(kind, 0), written.get(kind, 0), over_limit.get(kind, 0)
        row = {"in": came, "written": out, "dropped": dropped.get(kind, {}), "over_limit": left}
        if came != out + left + sum(dropped.get(kind, {}).values()):
            raise StageError(
                f"{job.name}: the counts of {kind!r} do not add up: {row}. This is a fault of the builder "
                "or of the runner; nothing was published"
            )
        table[kind] = row
    return table


def _features(job: Job, work: Path) -> Any:
    from beam_jobs.graph import info_by_kind

    return job.features(info_by_kind((kind, text) for kind, text in lines(work / "info.jsonl")))


def _write_metadata(
    job: Job, features: Any, folder: Path, version: str, description: str, read: Sequence[ReadBack]
) -> None:
    from beam_jobs.tfds_metadata import write_metadata

    sizes: dict[str, list[tuple[int, int]]] = {}
    for shard in read:
        sizes.setdefault(shard.split, []).append((shard.records, shard.bytes))
    write_metadata(folder, name=job.name, version=version, description=description, features=features, shards=sizes)
