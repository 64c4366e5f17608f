"""How a client wants the file of an answer: read from the parameters of its request, before and after the model ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from delineate.errors import InputError

EXTENSIONS: Final = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha")
NO_FILE: Final = (".json", "none")
DTYPES: Final = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")

_USUAL: Final = ".nii.gz"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The file of an answer.

    extension : one of `EXTENSIONS`, empty for no file; dtype : one of `DTYPES`, empty for the smallest that holds the labels; compress :
    whether an NRRD is gzipped; restore : labels as the model declares them, else 1, 2, 3 in their order.
    """

    extension: str = _USUAL
    dtype: str = ""
    compress: bool = True
    restore: bool = True

    def require_fitting(self, labels: Iterable[int]) -> None:
        """Refuse labels that the wanted type cannot hold: `InputError`."""
        highest = max(labels, default=0)
        if self.dtype and highest > _highest(self.dtype):
            raise InputError(f"label {highest} does not fit into {self.dtype}", "Ask for a wider result_dtype, such as uint16.")


def read_wanted(params: Mapping[str, Any], suffix: str = _USUAL) -> Wanted:
    """How the request wants its answer.

    Parameters
    ----------
    params : ``result_extension``, ``result_dtype``, ``result_compress``, ``restore_label_idx``, each optional
    suffix : of the image's file: the answer's where nothing is said, and where it is one we write

    Raises
    ------
    InputError
        An extension or type that cannot be written, or a value of a wrong kind.
    """
    extension = params.get("result_extension") or (suffix if suffix in EXTENSIONS else _USUAL)
    extension = extension.lower() if isinstance(extension, str) else extension
    dtype = params.get("result_dtype") or ""
    if extension not in (*EXTENSIONS, *NO_FILE):
        raise InputError("files of this result_extension cannot be written", f"Use one of {', '.join((*EXTENSIONS, *NO_FILE))}.")
    if dtype not in ("", *DTYPES):
        raise InputError("this result_dtype cannot be written", f"Use one of {', '.join(DTYPES)}.")
    return Wanted(
        extension="" if extension in NO_FILE else extension,
        dtype=dtype,
        compress=_flag(params, "result_compress"),
        restore=_flag(params, "restore_label_idx"),
    )


def _flag(params: Mapping[str, Any], name: str) -> bool:
    value = params.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{name} is not true or false", "Send a JSON boolean.")
    return value is not False


def _highest(dtype: str) -> float:
    if dtype.startswith("float"):
        return float(2 ** (np.finfo(dtype).nmant + 1))  # whole numbers up to here are exact
    return float(np.iinfo(dtype).max)
