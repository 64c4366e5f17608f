"""The fake workstation: images, contours, a session, a log."""

# ruff: noqa: D102, N802  - the host's own names, which the specification describes

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np

from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.testing.mimhost import mimpython
from delineate.testing.mimhost.calls import Fault, HostObject, JavaError, Ledger, host_call
from delineate.testing.mimhost.contours import XMimContour
from delineate.testing.mimhost.images import HostImage, XMimImage
from delineate.testing.mimhost.options import Options
from delineate.testing.mimhost.patient import PATIENT, attributes
from delineate.testing.mimhost.snapshots import Snapshot
from delineate.testing.mimhost.space import XMimPointFactory
from delineate.volume import Volume

GEOMETRY = Geometry((23, 19, 11), (1.2, 0.9, 3.3), (-17.25, 41.5, -903.0))
"""No two sizes, no two spacings are equal, and the patient's origin is elsewhere."""
MULTIPLIERS = ((2, 2, 1), (1, 1, 1), (2, 3, 1), (4, 4, 1))


class LogLine(NamedTuple):
    """One line of the workstation's log; `level` is ``info`` or ``error``."""

    level: str
    text: str


class XMimLogger(HostObject):
    """The log."""

    __slots__ = ()
    _kept: list[LogLine]

    @host_call
    def info(self, text: str) -> None:
        self._write("info", text)

    @host_call
    def error(self, text: str) -> None:
        self._write("error", text)

    def _write(self, level: str, text: str) -> None:
        if not isinstance(text, str):
            self._ledger.refuse("java.lang.IllegalArgumentException", f"the logger takes text, not {type(text).__name__}")
        self._kept.append(LogLine(level, text))


class XMimSession(HostObject):
    """What an entry point gets first."""

    __slots__ = ()
    _kept: list[LogLine]

    @host_call
    def createLogger(self) -> XMimLogger:
        return XMimLogger(self._ledger, self._kept)

    @host_call
    def getPointFactory(self) -> XMimPointFactory:
        return XMimPointFactory(self._ledger)


class Host:
    """A fake workstation. As a context manager it puts ``MIMPython`` into ``sys.modules`` and takes it out again.

    Parameters
    ----------
    multiplier : voxels of a contour in each voxel of its image, along x, y, z, where an image does not say its own.
    **options : how it behaves where nothing is known of the true one; see `Options`.

    Attributes
    ----------
    images : in the order in which they were made.
    log : lines that the extension wrote.
    ledger : calls, misuses, seconds, and bytes handed out.
    """

    def __init__(self, *, multiplier: tuple[int, int, int] = (2, 2, 1), **options: Any) -> None:
        self.options = Options(**options)
        self.multiplier = multiplier
        self.images: list[HostImage] = []
        self.log: list[LogLine] = []
        self.ledger = Ledger(self.options.one_thread)
        self._serials = itertools.count()
        self._stack = ExitStack()

    def __enter__(self) -> Host:
        self._stack.enter_context(mimpython.installed())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # ------------------------------------------------------------ what is there

    def image(
        self,
        geometry: Geometry = GEOMETRY,
        *,
        modality: str = "CT",
        multiplier: tuple[int, int, int] | None = None,
        dtype: str = "int16",
        seed: int = 0,
        frames: int = 1,
    ) -> HostImage:
        """An image of noise on any grid, as a scanner stores it: CT with an intercept of -1024, PT with a slope of its own."""
        slope, intercept, units = {"CT": (1.0, -1024.0, "HU"), "PT": (0.37, 0.0, "")}.get(modality, (1.0, 0.0, ""))
        noise = np.random.default_rng(seed + 1000 * len(self.images)).integers(0, 3000, geometry.shape, dtype=np.int16)
        volume = Volume(noise.astype(dtype, copy=False), geometry, slope, intercept, modality, units)
        return self.image_from_volume(volume, multiplier=multiplier, frames=frames)

    def image_from_volume(
        self,
        volume: Volume,
        *,
        multiplier: tuple[int, int, int] | None = None,
        orientation: str = "",
        name: str = "",
        dicom: Mapping[int, Any] | Literal["planted"] | None = "planted",
        frames: int = 1,
    ) -> HostImage:
        """An image with these voxels in these places.

        Parameters
        ----------
        volume : stored voxels; what ``getScaledData`` gives follows from slope and intercept.
        multiplier : of its contours; that of the host where it is not given.
        orientation : axis codes, ``LPI``: the same voxels in the same places, indexed in another order.
        name : what ``getCustomName`` gives; one that tells who the patient is where it is not given.
        dicom : attributes, tag → value (a list has several values, a dict is a sequence); None for an image without.
        frames : above 1, the image has four dimensions.
        """
        if orientation:
            volume = volume.mapped(reorientation(volume.geometry, orientation))
        number = len(self.images)
        if dicom == "planted":
            dicom = attributes(volume.modality, volume.slope, volume.intercept, number)
        found = HostImage(
            self.ledger, self.options, lambda: next(self._serials), number, volume, multiplier=multiplier or self.multiplier,
            name=name or f"PlantedImage {number} of {PATIENT}", dicom=dicom, frames=frames,
        )  # fmt: skip
        self.images.append(found)
        return found

    @property
    def session(self) -> XMimSession:
        """What an entry point gets first."""
        return XMimSession(self.ledger, self.log)

    def snapshot(self) -> Snapshot:
        """All contours of all images, as they are now."""
        return Snapshot.of(self.images)

    def knows(self, thing: object) -> bool:
        """Whether an image or a contour, or a handle of one, is of this host and exists."""
        kept = thing._kept if isinstance(thing, XMimImage | XMimContour) else thing
        return any(kept is image or kept in image.contours for image in self.images)

    def take_thread(self) -> None:
        """The thread that calls this is the entry point's from now on."""
        self.ledger.thread = threading.get_ident()

    # ------------------------------------------------------------ calls and faults

    @property
    def calls(self) -> list[str]:
        """Names of the calls since the last `forget`, ``XMimImage.getRawData``."""
        return self.ledger.calls

    @property
    def misuses(self) -> list[str]:
        """What the host refused since the last `forget`, also where the error was caught."""
        return self.ledger.misuses

    def fail_on(self, n: int = 1, call: str = "", *, times: int = 1, after: bool = False, error: BaseException | None = None) -> None:
        """Throw at the `n`-th call from now on.

        Parameters
        ----------
        n : from 1.
        call : count only calls of that name or type: ``XMimContour.delete``, ``XMimContour``; empty for all.
        times : how many calls in a row fail; -1 for all that follow.
        after : throw when the call has already done its work.
        error : what is thrown; an error of Java where it is not given, whose text tells who the patient is.
        """
        if n < 1:
            raise ValueError("calls are counted from 1")
        error = error or JavaError("java.lang.NullPointerException", f'Cannot invoke "XMimSeries.getData()": series of {PATIENT} is null')
        self.ledger.faults.append(Fault(n, call, times, after, error))

    def forget(self) -> None:
        """Forget calls, misuses, faults, the log and the peak of memory; images and contours stay."""
        ledger = self.ledger
        for kept in (ledger.calls, ledger.misuses, ledger.faults, self.log):
            kept.clear()
        ledger.seconds, ledger.total, ledger.peak = 0.0, 0, ledger.live
