"""Results that a worker outside of this system uploads: brought to the one form in which results are kept."""

from __future__ import annotations

import secrets
import shutil
from typing import IO, Final, cast

from delineate.errors import ArchiveError
from delineate.protocols.archive import ArchiveReader, Limits, StoredZipWriter
from delineate.store.blobs import BlobStore
from delineate.store.faults import storage_error
from delineate.store.writer import BlobWriter

_BLOCK: Final = 1 << 20


def as_result(archive: BlobWriter, blobs: BlobStore, limits: Limits) -> BlobWriter:
    """A zip of stored entries, as our own workers make it, with what the uploaded zip or tar holds.

    Raises
    ------
    ArchiveError
        Not an archive, not safe, or without any ``.nii.gz``.
    StoreError
        It cannot be written.
    """
    path = archive.path.with_name(secrets.token_hex(16))
    try:
        reader = ArchiveReader(archive.path, limits)
        sizes = {entry.name: entry.size for entry in reader.entries() if not entry.is_folder}
        if not any(name.lower().endswith(".nii.gz") for name in sizes):
            raise ArchiveError("the result holds no NAME.nii.gz")
        with StoredZipWriter(path) as packed:
            for name, stream in reader.files():
                with packed.entry(name, sizes[name]) as target:
                    shutil.copyfileobj(cast("IO[bytes]", stream), target, _BLOCK)
        return blobs.adopt(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise storage_error(error, "storing a result") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
