"""Memory whose pages are laid out ahead of whoever fills it, by another core.

A page that nobody touched before costs the kernel more than unpacking what goes into it, on a virtual machine several times
as much. Who reads a large image waits for one thing after the other; the system call used here does not hold the
interpreter, so that both are done at once. Contents do not change. Linux 5.14 and newer; elsewhere it is `numpy.empty`.

The pages are small ones. A huge page, which is what numpy asks for, is cut from the large free blocks, and those are what a
virtual machine gives back to its host within a second or two: 157 MB of them took 0.3 to 0.5 s, of small ones 0.06 to 0.09.
Where nothing is given back huge pages would save a twentieth of a second, most of which the other core takes over.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from typing import Any, Final

import numpy as np

_NO_HUGE_PAGES: Final = 15  # MADV_NOHUGEPAGE
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE
_STEP: Final = 4 << 20
_SMALLEST: Final = 16 << 20
_LARGEST: Final = 1 << 30
"""Bytes: more may be a claim that no file keeps."""


def empty(shape: Any, dtype: Any) -> np.ndarray:
    """As `numpy.empty`."""
    array = np.empty(shape, dtype)
    if sys.platform == "linux" and _SMALLEST <= array.nbytes <= _LARGEST:
        _advise(*_within(array), _NO_HUGE_PAGES)
        threading.Thread(target=_lay_out, args=(array,), name="memory ahead", daemon=True).start()
    return array


def _within(array: np.ndarray) -> tuple[int, int]:
    """Address and length of the pages that lie wholly within an array, bytes."""
    begin = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    return begin, (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin


def _advise(begin: int, length: int, advice: int) -> bool:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return bool(madvise(begin, length, advice) == 0)


def _lay_out(array: np.ndarray) -> int:
    """Lay out the pages that lie wholly within an array: how many bytes; where the kernel cannot, what is left comes by itself."""
    begin, length = _within(array)
    for done in range(0, length, _STEP):
        if not _advise(begin + done, min(_STEP, length - done), _POPULATE_WRITE):
            return done
    return length
