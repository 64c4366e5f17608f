"""A fake MIM workstation, as strict as what is publicly known of the true one allows: to test extensions with.

::

    with Host(multiplier=(2, 2, 1)) as host, running(host, "extension.zip") as runner:
        image = host.image()
        outcome = runner.run("MyEntryPoint", image, "text", 1)

See docs/mimhost.md.
"""

from delineate.testing.mimhost.calls import JavaError, JavaVector
from delineate.testing.mimhost.contours import HostContour
from delineate.testing.mimhost.host import GEOMETRY, MULTIPLIERS, Host, LogLine
from delineate.testing.mimhost.images import HostImage
from delineate.testing.mimhost.manifest import Entry, ExtensionError
from delineate.testing.mimhost.mimpython import installed
from delineate.testing.mimhost.options import CHOICES, Options
from delineate.testing.mimhost.patient import PATIENT, PLANTED, leaks
from delineate.testing.mimhost.runner import HostFailure, LeftBehind, Outcome, Runner, running
from delineate.testing.mimhost.snapshots import Snapshot
from delineate.testing.mimhost.space import tilted

__all__ = [
    "CHOICES",
    "GEOMETRY",
    "MULTIPLIERS",
    "PATIENT",
    "PLANTED",
    "Entry",
    "ExtensionError",
    "Host",
    "HostContour",
    "HostFailure",
    "HostImage",
    "JavaError",
    "JavaVector",
    "LeftBehind",
    "LogLine",
    "Options",
    "Outcome",
    "Runner",
    "Snapshot",
    "installed",
    "leaks",
    "running",
    "tilted",
]
