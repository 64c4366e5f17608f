"""The statements of the ways that are gone often, built once: building one costs more than running it.

Parameters of an UPDATE that are no columns to set are called ``which``, ``holder`` and so on, never like a column.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from delineate.store.ready import Query
from delineate.store.tables import ANNOTATION_EVENTS, ANNOTATION_LEASES, DATASTORES, IMAGE_VERSIONS, IMAGES, LABELS

_DATASTORE: Final = IMAGES.c.datastore == sa.bindparam("of")
_IMAGE: Final = LABELS.c.image == sa.bindparam("which")

REVISION: Final = Query(sa.select(DATASTORES.c.revision).where(DATASTORES.c.id == sa.bindparam("of")))
NEXT_REVISION: Final = (
    sa.update(DATASTORES)
    .where(DATASTORES.c.id == sa.bindparam("of"))
    .values(revision=DATASTORES.c.revision + 1)
    .returning(DATASTORES.c.revision)
)

IMAGE_BY_NAME: Final = sa.select(IMAGES).where(_DATASTORE, IMAGES.c.name == sa.bindparam("called"))
IMAGE_BY_PATH: Final = sa.select(IMAGES).where(_DATASTORE, IMAGES.c.path == sa.bindparam("at"), IMAGES.c.removed.is_(None))
IMAGES_SINCE: Final = sa.select(IMAGES).where(_DATASTORE, IMAGES.c.revision > sa.bindparam("known")).order_by(IMAGES.c.id)
LABELS_SINCE: Final = (
    sa.select(LABELS)
    .join(IMAGES, IMAGES.c.id == LABELS.c.image)
    .where(_DATASTORE, IMAGES.c.revision > sa.bindparam("known"), LABELS.c.is_current)
    .order_by(LABELS.c.image, LABELS.c.tag)
)
INSERT_IMAGE: Final = sa.insert(IMAGES)
CHANGE_IMAGE: Final = sa.update(IMAGES).where(IMAGES.c.id == sa.bindparam("which"))

VERSIONS: Final = sa.select(IMAGE_VERSIONS).where(IMAGE_VERSIONS.c.image == sa.bindparam("which")).order_by(IMAGE_VERSIONS.c.version)
INSERT_VERSION: Final = sa.insert(IMAGE_VERSIONS)
CHANGE_VERSION: Final = sa.update(IMAGE_VERSIONS).where(
    IMAGE_VERSIONS.c.image == sa.bindparam("which"), IMAGE_VERSIONS.c.version == sa.bindparam("numbered")
)
DELETE_VERSIONS: Final = sa.delete(IMAGE_VERSIONS).where(IMAGE_VERSIONS.c.image == sa.bindparam("which"))

LABELS_OF_IMAGE: Final = sa.select(LABELS).where(_IMAGE).order_by(LABELS.c.tag, LABELS.c.version)
LABELS_OF_TAG: Final = sa.select(LABELS).where(_IMAGE, LABELS.c.tag == sa.bindparam("tagged")).order_by(LABELS.c.version.desc())
INSERT_LABEL: Final = sa.insert(LABELS)
INSERT_AND_TELL: Final = INSERT_LABEL.returning(LABELS)
CHANGE_LABEL: Final = sa.update(LABELS).where(_IMAGE, LABELS.c.tag == sa.bindparam("tagged"), LABELS.c.version == sa.bindparam("numbered"))
DELETE_LABELS: Final = sa.delete(LABELS).where(_IMAGE, LABELS.c.tag == sa.bindparam("tagged"))
DELETE_ALL_LABELS: Final = sa.delete(LABELS).where(_IMAGE)

INSERT_EVENT: Final = sa.insert(ANNOTATION_EVENTS)

LEASES: Final[sa.Select[Any]] = (
    sa.select(ANNOTATION_LEASES, IMAGES.c.name)
    .join(IMAGES, IMAGES.c.id == ANNOTATION_LEASES.c.image)
    .where(_DATASTORE, ANNOTATION_LEASES.c.expires > sa.bindparam("now"))
)
INSERT_LEASE: Final = sa.insert(ANNOTATION_LEASES)
DELETE_LEASE: Final = sa.delete(ANNOTATION_LEASES).where(ANNOTATION_LEASES.c.image == sa.bindparam("which"))
END_LEASE: Final = DELETE_LEASE.where(ANNOTATION_LEASES.c.tag == sa.bindparam("tagged"))
