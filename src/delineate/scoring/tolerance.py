"""What counts as agreement where nothing else is said; imported by the API process too, which must stay without scipy."""

from __future__ import annotations

from typing import Final

TOLERANCE: Final = 2.0
"""mm by which surfaces may differ."""
