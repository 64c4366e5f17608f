"""Who may what: every route of the application, and the role it needs. A route that is not here answers nobody.

User < annotator < reviewer < admin: a user reads and infers, an annotator adds images and labels, a reviewer judges
labels, an administrator trains, removes and manages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from delineate.server.accounts.identity import Role


@dataclass(frozen=True)
class Rule:
    """What a route needs.

    Parameters
    ----------
    role : the least that may; None where nobody has to say who they are, `Role.NONE` where it is enough to be known
    is_near : where the server knows nobody (no accounts, no tokens), only this very machine may
    is_owners : of a task that a uid names: with accounts its owner may, or an administrator; else the uid is enough
    """

    role: Role | None
    is_near: bool = True
    is_owners: bool = False


OPEN: Final = Rule(None, is_near=False)
BY_UID: Final = Rule(None, is_near=False)  # a uid is the right to read: 256 random bits
OWNER: Final = Rule(None, is_near=False, is_owners=True)
POST: Final = Rule(Role.USER, is_near=False)  # as servers of this protocol do, which know nobody
KNOWN: Final = Rule(Role.NONE)
USER: Final = Rule(Role.USER)
ANNOTATOR: Final = Rule(Role.ANNOTATOR)
REVIEWER: Final = Rule(Role.REVIEWER)
ADMIN: Final = Rule(Role.ADMIN)

_READ: Final = ("GET", "HEAD")

_TABLE: Final[tuple[tuple[Rule, str, tuple[str, ...]], ...]] = (
    # The server itself.
    (OPEN, "/", ("GET",)),
    (OPEN, "/docs", ("GET",)),
    (OPEN, "/openapi.json", _READ),
    (OPEN, "/healthz", ("GET",)),
    (OPEN, "/metrics", ("GET",)),
    # Accounts.
    (OPEN, "/auth/", ("GET",)),
    (OPEN, "/auth/token", ("POST",)),
    (KNOWN, "/auth/token/valid", ("GET",)),
    # Tasks.
    (POST, "/api/tasks/", ("POST",)),
    (OWNER, "/api/tasks/", ("DELETE",)),
    (BY_UID, "/api/tasks/outputs/", ("GET",)),
    (BY_UID, "/api/tasks/{uid}", ("GET",)),
    (OWNER, "/api/tasks/{uid}", ("DELETE",)),
    (BY_UID, "/api/tasks/{uid}/status", ("GET",)),
    (BY_UID, "/api/tasks/{uid}/events", ("GET",)),
    (BY_UID, "/api/tasks/{uid}/log", ("GET",)),
    (OWNER, "/api/tasks/{uid}/cancel", ("POST",)),
    (OPEN, "/api/tasks/{rest:path}", ("GET", "DELETE")),  # what cannot be a uid
    (OPEN, "/api/tasks/{rest:path}/cancel", ("POST",)),
    # Administration.
    (USER, "/api/tasks/", ("GET",)),  # their own; an administrator sees all
    (ADMIN, "/api/tasks/", ("PUT",)),
    (ADMIN, "/api/tasks/inputs/", ("GET",)),
    (ADMIN, "/api/tasks/logs/", ("GET",)),
    (ADMIN, "/api/tasks/outputs/", ("POST",)),
    (POST, "/api/models/", ("GET",)),
    (ADMIN, "/api/models/", ("POST",)),
    (ADMIN, "/api/models/tars/", ("GET",)),
    # MONAI Label: the server, inference, sessions.
    (USER, "/info/", ("GET",)),
    (ADMIN, "/logs/", ("GET",)),
    (ADMIN, "/logs/gpu", ("GET",)),
    (USER, "/infer/{model}", ("POST",)),
    (USER, "/infer/wsi/{model}", ("POST",)),
    (USER, "/infer/wsi_v2/{model}", ("POST",)),
    (USER, "/session/", ("PUT",)),
    (USER, "/session/{session_id}", ("GET", "DELETE")),
    # MONAI Label: images and labels.
    (ANNOTATOR, "/activelearning/{strategy}", ("POST",)),
    (USER, "/datastore/", ("GET",)),
    (USER, "/datastore/image", _READ),
    (USER, "/datastore/image/info", ("GET",)),
    (USER, "/datastore/label", _READ),
    (USER, "/datastore/label/info", ("GET",)),
    (USER, "/datastore/dataset", ("GET",)),
    (ANNOTATOR, "/datastore/", ("PUT",)),
    (ANNOTATOR, "/datastore/image", ("PUT",)),
    (ANNOTATOR, "/datastore/image/info", ("PUT",)),
    (ANNOTATOR, "/datastore/label", ("PUT",)),
    (REVIEWER, "/datastore/label", ("DELETE",)),
    (REVIEWER, "/datastore/label/info", ("PUT",)),
    (REVIEWER, "/datastore/updatelabelinfo", ("PUT",)),
    (ADMIN, "/datastore/", ("DELETE",)),
    (ADMIN, "/datastore/image", ("DELETE",)),
    # MONAI Label: the DICOMweb server behind this one.
    (USER, "/proxy/dicom/wado", ("GET",)),
    (USER, "/proxy/dicom/wado/{path:path}", ("GET",)),
    (USER, "/proxy/dicom/qido", ("GET",)),
    (USER, "/proxy/dicom/qido/{path:path}", ("GET",)),
    (ANNOTATOR, "/proxy/dicom/wado/{path:path}", ("POST",)),  # OHIF stores there, too
    (ANNOTATOR, "/proxy/dicom/stow", ("POST",)),
    (ANNOTATOR, "/proxy/dicom/stow/{path:path}", ("POST",)),
    # MONAI Label: a viewer.
    (USER, "/ohif/", _READ),
    (USER, "/ohif/{path:path}", _READ),
    # MONAI Label: what runs for long.
    (USER, "/batch/infer", ("GET",)),
    (ADMIN, "/batch/infer", ("DELETE",)),
    (ADMIN, "/batch/infer/{model}", ("POST",)),
    (USER, "/train/", ("GET",)),
    (ADMIN, "/train/", ("POST", "DELETE")),
    (ADMIN, "/train/{model}", ("POST",)),
    (USER, "/scoring/", ("GET",)),
    (ANNOTATOR, "/scoring/", ("POST", "DELETE")),
    (ANNOTATOR, "/scoring/{method}", ("POST",)),
    (USER, "/model/info/{model}", ("GET",)),
    (ADMIN, "/model/{model}", ("GET", "PUT", "DELETE")),
)

RIGHTS: Final = {(method, path): rule for rule, path, methods in _TABLE for method in methods}
"""(method, template of the path) → rule."""


def rule_of(method: str, path: str) -> Rule | None:
    """The rule of a route; a ``HEAD`` that is not named is a ``GET`` without the body."""
    found = RIGHTS.get((method, path))
    return RIGHTS.get(("GET", path)) if found is None and method == "HEAD" else found
