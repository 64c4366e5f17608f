"""Images that stay decoded between tasks, as read and as models want them; the least recently used go first."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from delineate.geometry import Geometry
from delineate.protocols.dicom_request import DicomAsked
from delineate.volume import Volume

if TYPE_CHECKING:
    from delineate.dicom.source import Series

Key = tuple[Hashable, ...]
"""The content (`Place.key`) first, then what of it was read, then how it was converted; as read, where nothing follows."""


def as_read(content: str, asked: DicomAsked) -> Key:
    """The key of an image as it was read."""
    return (content, (asked.series, asked.gaps, asked.doubled))


@dataclass(frozen=True, eq=False)
class WarmImage:
    """volume : voxels read-only, C-contiguous; header : the grid of the image as it lies in its file; series : what refers to it,
    None where it did not come from DICOM; path : where it lies, empty for a blob."""

    volume: Volume
    header: Geometry
    series: Series | None = None
    path: str = ""


class WarmImages:
    """Images by key.

    Parameters
    ----------
    budget : bytes of voxels kept; resident : bytes this process holds now.
    """

    def __init__(self, budget: int, resident: Callable[[], int]) -> None:
        self._budget = budget
        self._resident = resident
        self._images: OrderedDict[Key, WarmImage] = OrderedDict()

    def get(self, key: Key) -> WarmImage | None:
        """An image, the most recently used from now on; None where it is not here."""
        found = self._images.get(key)
        if found is not None:
            self._images.move_to_end(key)
        return found

    def keep(self, key: Key, volume: Volume, header: Geometry, series: Series | None = None, path: str = "") -> WarmImage:
        """Keep an image, unless it alone is over the budget; others go for it. It is read-only from now on."""
        image = WarmImage(_read_only(volume), header, series, path)
        if image.volume.voxels.nbytes <= self._budget:
            self._images[key] = image
            self._images.move_to_end(key)
            while self.size > self._budget:
                self._images.popitem(last=False)
        return image

    def make_room(self, resident: int, needed: Iterable[str] = ()) -> None:
        """Let go of images until this process holds `resident` bytes at most; those whose content is `needed` stay."""
        stays = set(needed)
        for key in [key for key in self._images if key[0] not in stays]:
            if self._resident() <= resident:
                return
            del self._images[key]

    def forget_gone(self) -> None:
        """Let go of images whose files are gone, such as those of sessions that ended: nobody can ask for them again."""
        for key in [key for key, image in self._images.items() if image.path and not os.path.lexists(image.path)]:
            del self._images[key]

    @property
    def size(self) -> int:
        """Bytes of voxels; those that two images share count once."""
        owners = {id(owner): owner.nbytes for owner in (_owner(image.volume.voxels) for image in self._images.values())}
        return sum(owners.values())

    def contents(self) -> list[str]:
        """Which contents are here in any form, the most recently used last."""
        return list(dict.fromkeys(str(key[0]) for key in self._images))


def _read_only(volume: Volume) -> Volume:
    voxels = np.ascontiguousarray(volume.voxels)
    _owner(voxels).flags.writeable = False
    voxels.flags.writeable = False
    return volume if voxels is volume.voxels else replace(volume, voxels=voxels)


def _owner(array: np.ndarray) -> np.ndarray:
    """The array that holds the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
