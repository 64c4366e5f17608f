"""What the extra ``dicom`` installs, imported where it is needed."""

from __future__ import annotations

from typing import Any

from delineate.errors import MissingPartError


def pydicom() -> Any:
    """The library; `MissingPartError` without it."""
    try:
        import pydicom as library
        import pydicom.config
        import pydicom.pixels
    except ImportError:
        raise MissingPartError("the reader of DICOM files (pydicom)", "dicom") from None
    # Values that break a rule are looked at where they matter; a warning for each would name patients' data.
    library.config.settings.reading_validation_mode = library.config.IGNORE
    return library
