"""What the extra ``gateway`` installs, imported where it is needed."""

from __future__ import annotations

from typing import Any

from delineate.errors import MissingPartError


def pynetdicom() -> Any:
    """The library; `MissingPartError` without it."""
    try:
        import pynetdicom as library
        import pynetdicom._config
        import pynetdicom.presentation
    except ImportError:
        raise MissingPartError("the DICOM network (pynetdicom)", "gateway") from None
    library._config.STORE_SEND_CHUNKED_DATASET = True  # a file goes as it is, a block at a time; else whole, decoded and encoded again
    return library
