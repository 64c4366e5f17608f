"""How de-identification is refused."""

from __future__ import annotations

from delineate.errors import InputError


class DeidentificationError(InputError):
    """Something cannot be sent without the patient, or what returned refers to what never left. Names nobody."""
