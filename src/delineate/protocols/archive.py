"""Task archives: what is sent to a model and what comes back, written and read safely and in constant memory.

The public names; what they are made of is in

- `delineate.protocols.archive_entries`: which names and how much an archive may hold, the bytes of an entry, deterministic zip,
- `delineate.protocols.archive_walker`, `archive_reader`: zip and tar of anybody, unpacking,
- `delineate.protocols.task_archive`: what a client needs, so that the workstation can carry it: requests written, label maps read,
- `delineate.protocols.request_archive`: images and their metadata, read; requests of files,
- `delineate.protocols.result_archive`: results written, and read as a segmentation; their tar view.
"""

from __future__ import annotations

from delineate.protocols.archive_entries import Entry, Limits, StoredZipWriter
from delineate.protocols.archive_reader import ArchiveReader
from delineate.protocols.request_archive import IMAGE_SUFFIXES, FileRequestWriter, image_meta, read_image_meta, request_images
from delineate.protocols.result_archive import LOG_NAME, ResultWriter, read_result, tar_view
from delineate.protocols.task_archive import ImageMeta, RequestWriter

__all__ = [
    "IMAGE_SUFFIXES",
    "LOG_NAME",
    "ArchiveReader",
    "Entry",
    "FileRequestWriter",
    "ImageMeta",
    "Limits",
    "RequestWriter",
    "ResultWriter",
    "StoredZipWriter",
    "image_meta",
    "read_image_meta",
    "read_result",
    "request_images",
    "tar_view",
]
