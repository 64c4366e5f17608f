"""All contours of a host at one moment, so that a test can say that nothing else was touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from delineate.testing.mimhost.contours import HostContour
from delineate.testing.mimhost.images import HostImage


@dataclass(frozen=True)
class ContourState:
    """One contour: where it is, what it is called, and what tells its voxels from others."""

    image: int
    serial: int
    name: str
    multiplier: tuple[int, int, int]
    count: int
    digest: str

    @classmethod
    def of(cls, contour: HostContour) -> ContourState:
        """As it is now."""
        voxels = contour.voxels
        return cls(contour.image.number, contour.serial, contour.name, contour.multiplier, voxels.count, voxels.digest)

    def __str__(self) -> str:
        return f"image {self.image}: the contour {self.name!r} ({self.count} voxels)"


class Snapshot(NamedTuple):
    """Contours of all images, in order. Equal if nothing was added, deleted, renamed or changed between the two."""

    contours: tuple[ContourState, ...]

    @classmethod
    def of(cls, images: Iterable[HostImage]) -> Snapshot:
        """As they are now."""
        return cls(tuple(ContourState.of(contour) for image in images for contour in image.contours))

    def changes(self, later: Snapshot) -> list[str]:
        """What is different in `later`, a sentence each: added, deleted, or changed."""
        return list(self._changes(later))

    def added(self, later: Snapshot) -> list[ContourState]:
        """The contours of `later` that are new."""
        here = {contour.serial for contour in self.contours}
        return [contour for contour in later.contours if contour.serial not in here]

    def _changes(self, later: Snapshot) -> Iterator[str]:
        after = {contour.serial: contour for contour in later.contours}
        for old in self.contours:
            new = after.get(old.serial)
            if new is None:
                yield f"{old} was deleted"
            elif new != old:
                yield f"{old} was changed, now {new.name!r} ({new.count} voxels)"
        for new in self.added(later):
            yield f"{new} was added"
