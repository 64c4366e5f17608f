"""A scripted MONAI Label server: answers as recorded of the original, in this process, on the standard library alone.

It shares no code with Delineate's protocol modules. What it is sent is kept, so that a test can look at it.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any

from delineate.testing.faults import Fault
from delineate.testing.monai_label.handler import LabelHandler
from delineate.testing.monai_label.script import LabelScript
from delineate.testing.scripted import ScriptedServer


@dataclass
class Form:
    """One form as it arrived: fields, and files as (field, file name, content type, content)."""

    target: str
    boundary: str
    fields: dict[str, str] = field(default_factory=dict)
    files: list[tuple[str, str, str, bytes]] = field(default_factory=list)


class ScriptedLabelServer(ScriptedServer):
    """A scripted MONAI Label server on a free loopback port, running between ``with`` and its end.

    Attributes
    ----------
    forms, bodies : what was sent, in order; images, labels, sessions : what it holds; training : its task, None for none.
    """

    handler = LabelHandler

    def __init__(self, script: LabelScript | None = None, *faults: Fault, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(script or LabelScript(), *faults, tls=tls)
        self.forms: list[Form] = []
        self.bodies: list[Any] = []
        self.images: dict[str, dict[str, Any]] = {"ct_small": {"ts": 1795185384, "name": "ct_small.nii.gz"}}
        self.labels: dict[tuple[str, str], dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.training: dict[str, Any] | None = None
