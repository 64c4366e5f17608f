"""Memory whose pages are laid out ahead of whoever fills it, by another core.

A page that nobody touched before costs the kernel more than unpacking what goes into it, on a virtual machine several times
as much. Who reads a large image waits for one thing after the other; the system call used here does not hold the
interpreter, so that both are done at once. Contents do not change. Linux 5.14 and newer; elsewhere it is `numpy.empty`.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from typing import Any, Final

import numpy as np

_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE
_STEP: Final = 4 << 20
_SMALLEST: Final = 16 << 20
_LARGEST: Final = 1 << 30
"""Bytes: more may be a claim that no file keeps."""


def empty(shape: Any, dtype: Any) -> np.ndarray:
    """As `numpy.empty`."""
    array = np.empty(shape, dtype)
    if sys.platform == "linux" and _SMALLEST <= array.nbytes <= _LARGEST:
        threading.Thread(target=_lay_out, args=(array,), name="memory ahead", daemon=True).start()
    return array


def _lay_out(array: np.ndarray) -> int:
    """Lay out the pages that lie wholly within an array: how many bytes; where the kernel cannot, what is left comes by itself."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    begin = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    for place in range(begin, end, _STEP):
        if madvise(place, min(_STEP, end - place), _POPULATE_WRITE) != 0:
            return place - begin
    return end - begin
