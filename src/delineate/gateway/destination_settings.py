"""What a destination's table in the rules file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DicomSettings:
    """A DICOM application entity that takes C-STORE.

    host, port; ae : its title; calling : ours; timeout : seconds for each step, an answer to one object included; tls : encrypted, with
    its certificate verified by `ca_file`, the system's authorities by default; certificate_file, key_file : ours, where it
    asks for one; commitment : whether it has to commit to what it took; commitment_timeout : seconds that this may take.
    """

    name: str
    host: str
    port: int
    ae: str
    calling: str = "DELINEATE"
    timeout: float = 30.0
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    commitment: bool = False
    commitment_timeout: float = 60.0


@dataclass(frozen=True, kw_only=True)
class StowSettings:
    """A DICOMweb server that takes STOW-RS.

    url : of the service, to which ``/studies`` is appended; token_file : bearer token; user, password_file : instead of it; ca_file : of
    the server's authority; timeout : seconds for each step.
    """

    name: str
    url: str
    token_file: Path | None = None
    user: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    timeout: float = 60.0


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """A folder, in which each file gets the name of its SOP Instance UID."""

    name: str
    path: Path


DestinationSettings = DicomSettings | StowSettings | FolderSettings
