"""The images of a DICOMweb server in the dress of a look at a folder, so that the rest of a datastore need not know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from delineate.datastore.dicomweb_json import RemoteSeries
from delineate.datastore.layout import Layout, Stamp
from delineate.datastore.scanning import FoundImage, Look, Scanner

INSTANCE: Final = 1 << 19
"""Bytes that an instance counts until its series is here: a CT slice as it is."""

_NS: Final = 10**9


@dataclass(frozen=True)
class Listing:
    """What the server had when it was asked last.

    series : images by path; gone : paths of those that it no longer has; number : grows with each listing, 0 before the first.
    """

    series: Mapping[str, RemoteSeries] = field(default_factory=dict)
    gone: Collection[str] = ()
    number: int = 0

    @property
    def told(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Ids and information by path, as MONAI Label's index has them."""
        return {path: (one.uid, dict(one.info)) for path, one in self.series.items()}


class ListingScanner(Scanner):
    """Finds labels in the folder, and images in the newest listing."""

    def __init__(self, layout: Layout, newest: Callable[[], Listing]) -> None:
        super().__init__(layout)
        self._newest = newest
        self._seen = 0

    def look(self, *, deep: bool = False) -> Look:
        """As a folder's; no image is gone because the server did not answer."""
        seen = super().look(deep=deep)
        listing = self._newest()
        is_news = listing.number != self._seen
        seen.images = {path: found_image(path, one) for path, one in listing.series.items()} if is_news or deep else {}
        seen.gone_images = list(listing.gone) if is_news else []
        self._seen = listing.number
        return seen

    def _walk(self, *_: Any) -> None:
        """What lies in the folder of images is a copy."""


def found_image(path: str, series: RemoteSeries) -> FoundImage:
    """A series as an image that was found; another number of instances makes it another one."""
    return FoundImage(path, "", True, Stamp(series.count * INSTANCE, series.moment * _NS))
