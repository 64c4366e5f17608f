"""Destinations after their settings."""

from __future__ import annotations

from delineate.gateway.commitment import Commitments
from delineate.gateway.delivery import DeliveryError, Destination
from delineate.gateway.destination_settings import DestinationSettings, DicomSettings, FolderSettings, StowSettings

__all__ = ["DeliveryError", "Destination", "make"]


def make(settings: DestinationSettings, commitments: Commitments | None = None) -> Destination:
    """The destination.

    Parameters
    ----------
    commitments : those of the node's SCP, where PACS may answer a request for commitment on an association of their own;
        without it they are heard on the association of the request alone.

    Raises
    ------
    SettingsError
        A file that the settings name cannot be used.
    MissingPartError
        What speaks to this kind of destination is not installed.
    """
    if isinstance(settings, FolderSettings):
        from delineate.gateway.folder import FolderDestination

        return FolderDestination(settings)
    if isinstance(settings, StowSettings):
        from delineate.gateway.stow import StowDestination

        return StowDestination(settings)
    from delineate.gateway.dicom_send import DicomDestination

    assert isinstance(settings, DicomSettings)
    return DicomDestination(settings, commitments or Commitments())
