"""The code as a wheel for workers on other machines, made from what is imported here, without a build tool.

Equal code gives equal bytes, which Dataflow caches. It asks for the packages that builders import, in the versions
that are installed here: other versions could write other bytes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("uio2", "beam_jobs", "flows")
# What is imported by builders and not part of Beam's images.
NEEDED = (
    "av",
    "fsspec",
    "aiohttp",
    "gcsfs",
    "s3fs",
    "google-crc32c",
    "numpy",
    "pillow",
    "pyarrow",
    "pycocotools",
    "scipy",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_wheel(folder: Path) -> Path:
    """Writes `uio2-VERSION-py3-none-any.whl` into `folder`."""
    version = importlib.metadata.version("uio2")
    info = f"uio2-{version}.dist-info"
    files = dict(_sources())
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: uio2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/METADATA"] = _metadata(version).encode()
    record = "".join(f"{name},sha256={_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"uio2-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    return path


def _sources() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        assert found is not None
        assert found.submodule_search_locations
        root = Path(next(iter(found.submodule_search_locations)))
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root.parent).as_posix()
            if path.is_file() and "__pycache__" not in relative:
                yield relative, path.read_bytes()


def _metadata(version: str) -> str:
    lines = ["Metadata-Version: 2.1", "Name: uio2", f"Version: {version}"]
    for name in NEEDED:
        try:
            lines.append(f"Requires-Dist: {name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            # An extra that is not installed here is not needed there either.
            continue
    return "\n".join(lines) + "\n"


def _hash(data: bytes) -> str:
    return re.sub("=+$", "", base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode())


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(write_wheel(target))
