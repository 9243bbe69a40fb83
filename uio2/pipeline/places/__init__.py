"""Where files from outside the store lie: on this machine, on gs://, s3://, https:// or hf://, or inside an archive.

`place(text)` gives a `pathlib.Path` for local files and a `Place`, which has the same methods, for all others. A member
of an archive is written `ARCHIVE!/member`, whatever the archive lies on: `gs://bucket/train2017.zip!/train2017/1.jpg`.
Nothing is unpacked or downloaded: files are listed once per process and read by ranges of bytes.
"""

from uio2.pipeline.places.place import AnyPlace, Place, as_folder, is_archive, place
from uio2.pipeline.places.remote import is_remote

__all__ = ["AnyPlace", "Place", "as_folder", "is_archive", "is_remote", "place"]
