"""Task archives: what is sent to a model and what comes back, written and read safely and in constant memory.

The public names; what they are made of is in

- `delineate.protocols.archive_entries`: which names and how much an archive may hold, and the bytes of an entry,
- `delineate.protocols.archive_reader`: zip and tar of anybody (over ``archive_zip`` and ``archive_tar``),
- `delineate.protocols.archive_writer`: deterministic zip, tar view of one,
- `delineate.protocols.task_archive`: images and their metadata,
- `delineate.protocols.result_archive`: label maps and their names.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

from delineate.protocols.archive_entries import Entry, Limits
from delineate.protocols.archive_reader import ArchiveReader
from delineate.protocols.archive_writer import LOG_NAME, StoredZipWriter, tar_view
from delineate.protocols.result_archive import ResultWriter, read_result
from delineate.protocols.task_archive import IMAGE_SUFFIXES, ImageMeta, RequestWriter, image_meta, request_images

__all__ = [
    "IMAGE_SUFFIXES",
    "LOG_NAME",
    "ArchiveReader",
    "Entry",
    "ImageMeta",
    "Limits",
    "RequestWriter",
    "ResultWriter",
    "StoredZipWriter",
    "image_meta",
    "read_result",
    "request_images",
    "tar_view",
]
