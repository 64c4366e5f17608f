"""What a task says of DICOM: which series of what was sent is meant, and which files in DICOM its answer is to hold.

It stands among a task's prompts under `KEY`: ``{"dicom": {"output": ["rtstruct", "seg"], "series": "2"}}``. No model sees it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from delineate.errors import InputError, MissingPartError

KEY: Final = "dicom"

OUTPUTS: Final[Mapping[str, str]] = {"rtstruct": "rtstruct.dcm", "seg": "seg.dcm"}
"""What can be asked for, and the entry of the result archive that it is."""

MEDIA_TYPE: Final = "application/dicom"

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "gaps": ("refuse", "fill"),
    "doubled": ("refuse", "first", "last"),
    "holes": ("keyhole", "xor"),
    "kind": ("binary", "labelmap", "fractional"),
}
_KNOWN: Final = ("output", "series", "short_names", *_CHOICES)
_LONGEST: Final = 64  # characters of a UID


@dataclass(frozen=True, kw_only=True)
class DicomAsked:
    """What was asked for.

    output : of `OUTPUTS`, in their order; series : number or Series Instance UID of the first image where it is one of several;
    gaps, doubled : see `delineate.dicom.reader.read`; holes, short_names : of an RTSTRUCT; kind : of a SEG.
    """

    output: tuple[str, ...] = ()
    series: str = ""
    gaps: str = "refuse"
    doubled: str = "refuse"
    holes: str = "keyhole"
    short_names: bool = False
    kind: str = "binary"

    @classmethod
    def of(cls, prompts: Mapping[str, Any]) -> DicomAsked:
        """What stands among prompts. Raises `InputError` for what makes no sense."""
        fields = prompts.get(KEY)
        if fields is None:
            return cls()
        if not isinstance(fields, Mapping):
            raise InputError(f"the prompt {KEY} is no JSON object", f'Send such as {{"{KEY}": {{"output": ["rtstruct"]}}}}.')
        unknown = sorted(str(name)[:32] for name in fields if name not in _KNOWN)
        if unknown:
            raise InputError(f"the prompt {KEY} has no {unknown[0]!r}", f"Use {', '.join(_KNOWN)}.")
        values: dict[str, Any] = {name: _chosen(name, fields[name], _CHOICES[name]) for name in _CHOICES if name in fields}
        if "output" in fields:
            values["output"] = outputs_of(fields["output"])
        if "series" in fields:
            values["series"] = _series(fields["series"])
        if "short_names" in fields:
            if not isinstance(fields["short_names"], bool):
                raise InputError(f"{KEY}.short_names is not true or false", "Send a JSON boolean.")
            values["short_names"] = fields["short_names"]
        return cls(**values)


def with_output(prompts: Mapping[str, Any], output: object) -> dict[str, Any]:
    """Prompts that ask for files in DICOM, `output` as in `outputs_of`, whatever else of DICOM they say. Raises `InputError`."""
    fields = prompts.get(KEY) or {}
    if not isinstance(fields, Mapping):
        DicomAsked.of(prompts)  # which refuses it
    return {**prompts, KEY: {**fields, "output": list(outputs_of(output))}}


def without_dicom(prompts: Mapping[str, Any]) -> dict[str, Any]:
    """Prompts as a model sees them."""
    return {name: value for name, value in prompts.items() if name != KEY}


def outputs_of(value: object) -> tuple[str, ...]:
    """A list of `OUTPUTS`, or text with commas between them. Raises `InputError`."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputError("the output in DICOM is no list of names", f"Use {' or '.join(OUTPUTS)}.")
    wanted = {name.strip() for name in names} - {""}
    if unknown := sorted(wanted - set(OUTPUTS)):
        raise InputError(f"{unknown[0][:32]!r} is no output in DICOM", f"Use {' or '.join(OUTPUTS)}.")
    return tuple(name for name in OUTPUTS if name in wanted)


def require_reader() -> None:
    """Refuse DICOM where its reader is not installed, without importing it: `MissingPartError`."""
    if importlib.util.find_spec("pydicom") is None:
        raise MissingPartError("the reader of DICOM files (pydicom)", "dicom")


def not_dicom() -> InputError:
    """Why an answer in DICOM cannot be made of an image of another format."""
    return InputError(
        "the image did not come from DICOM: contours and segments in DICOM refer to a series",
        "Send the DICOM series, or ask for an answer in another format.",
    )


def _chosen(name: str, value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{KEY}.{name} is none of {', '.join(choices)}", "Send one of these words.")
    return value


def _series(value: object) -> str:
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not text or len(text) > _LONGEST:
        raise InputError(f"{KEY}.series is neither the number of a series nor its UID", "Send what the error about several images lists.")
    return text
