"""What a datastore refuses beyond `InputError` and `StoreError`; an answer over HTTP takes its status from these kinds.

::

    UnknownItemError           there is no such thing                     (HTTP 404)
    ├── UnknownImageError
    ├── UnknownLabelError
    └── UnknownSessionError
        └── SessionExpiredError
    UnknownStrategyError       no strategy of that name                   (HTTP 404)
    GridMismatchError          a label on another grid than its image     (HTTP 409)
    DicomWebError              the DICOMweb server behind it failed       (HTTP 502)
"""

from __future__ import annotations

from delineate.errors import DelineateError, GeometryError
from delineate.geometry import Geometry


class UnknownItemError(DelineateError):
    """There is no such image, label or session."""


class UnknownImageError(UnknownItemError):
    """No image of that id is in the datastore."""

    default_advice = "List the images, or upload this one first."


class UnknownLabelError(UnknownItemError):
    """The image has no label of that tag."""

    default_advice = "List the labels of the image."


class UnknownSessionError(UnknownItemError):
    """No session of that id exists, or it is somebody else's."""

    default_advice = "Upload the image again, into a new session."


class SessionExpiredError(UnknownSessionError):
    """The session was not used for longer than it was to last."""


class UnknownStrategyError(DelineateError):
    """No strategy of that name is there."""


class DicomWebError(DelineateError):
    """A DICOMweb server did not do what it was asked to. `is_passing`: it may, a moment later; `status`: its own, 0 for none."""

    def __init__(self, message: str, advice: str = "", *, is_passing: bool = False, status: int = 0) -> None:
        super().__init__(message, advice)
        self.is_passing = is_passing
        self.status = status


class GridMismatchError(GeometryError):
    """A label that lies on another grid than the image it was drawn on; both are in the message and here."""

    default_advice = "Save the label on the grid of the image as the server has it."

    def __init__(self, image: Geometry, label: Geometry) -> None:
        super().__init__(f"the label is on another grid than its image: the label has {label}, the image {image}")
        self.image = image
        self.label = label
