"""Whole phantoms: image and truth on any grid."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from delineate.geometry import Geometry, Vector
from delineate.orientation import reorientation
from delineate.segmentation import Segmentation
from delineate.testing.phantoms.chest import Chest, paint_chest
from delineate.testing.phantoms.scene import Canvas, Mask, Point, ellipsoid, grain, grid, slabs, superellipse
from delineate.volume import Volume

CENTRE: Vector = (-3.5, -141.25, -873.0)
"""Where the middle of the phantoms lies, LPS mm: off the origin, as in a scanner, so that a lost origin shows."""


class Phantom(NamedTuple):
    """An image and the truth about it, on one grid."""

    volume: Volume
    segmentation: Segmentation


def chest_ct(
    size: tuple[int, int, int] = (170, 150, 110),
    spacing: Vector = (2.4, 2.5, 3.0),
    orientation: str = "LPS",
    seed: int = 0,
    table: bool = True,
    **details: Any,
) -> Phantom:
    """A chest CT from the neck to the upper abdomen, in Hounsfield units (int16).

    Parameters
    ----------
    size, spacing : voxels and mm along the patient's left, posterior and superior axes; 400 x 330 x 320 mm hold the body.
    orientation : axis codes of the result; the same voxels in another order, so sizes are permuted with them.
    seed : of the noise and the vessels.
    table : whether the patient lies on a couch.
    **details : of `Chest`: ``arms`` (down, needs 530 mm along x), ``clothes``, ``contrast``, ``noise`` (HU) and
        ``lungs`` ("LR", "L", "R", "").

    Returns
    -------
    Phantom
        Structures Body, Lung_L, Lung_R, Bone, Heart, Trachea, Bronchus_Main.
    """
    phantom = chest_ct_on(grid(size, spacing, CENTRE), seed=seed, table=table, **details)
    return _oriented(phantom, orientation)


def chest_ct_on(geometry: Geometry, seed: int = 0, table: bool = True, **details: Any) -> Phantom:
    """The chest of `chest_ct` on any grid, oblique too; what lies outside the body's box is air and couch."""
    chest = Chest(seed=seed, table=table, **details)
    voxels = np.empty(geometry.shape, dtype=np.int16)
    masks: dict[str, Mask] = {}
    for piece in slabs(geometry):
        canvas = Canvas.on(geometry, CENTRE, piece, -1000.0)
        for name, mask in paint_chest(canvas, chest, piece.start).items():
            masks.setdefault(name, np.zeros(geometry.shape, dtype=bool))[piece] = mask
        voxels[piece] = np.clip(np.rint(canvas.values), -1024, 3071)
    return Phantom(Volume(voxels, geometry, modality="CT", units="HU"), Segmentation.from_masks(masks, geometry))


def abdomen_mr(
    size: tuple[int, int, int] = (140, 110, 40),
    spacing: Vector = (2.6, 2.7, 5.0),
    orientation: str = "LPS",
    seed: int = 0,
    bias: float = 0.65,
) -> Phantom:
    """An abdominal MR (uint16, arbitrary units): dark cortical bone and bowel gas, Rician noise, a receive bias.

    `bias` is the share of the signal that is lost at the side away from the coil. The truth is `Body`.
    """
    geometry = grid(size, spacing, CENTRE)
    voxels = np.empty(geometry.shape, dtype=np.uint16)
    truth = np.zeros(geometry.shape, dtype=bool)
    for piece in slabs(geometry):
        canvas = Canvas.on(geometry, CENTRE, piece, 0.0)
        truth[piece] = _paint_abdomen(canvas)
        falloff = 1 - bias * np.clip(0.5 + canvas.y / 230 + canvas.x / 900, 0, 1)
        real = canvas.values * falloff + 14 * grain(canvas.values.shape, seed, piece.start)
        voxels[piece] = np.rint(np.hypot(real, 14 * grain(canvas.values.shape, seed + 1, piece.start)))
    segmentation = Segmentation.from_masks({"Body": truth}, geometry)
    return _oriented(Phantom(Volume(voxels, geometry, modality="MR"), segmentation), orientation)


def _paint_abdomen(canvas: Canvas) -> Mask:
    x, y, z = canvas.x, canvas.y, canvas.z
    a = (162 + 6 * np.cos(z / 60)).astype(np.float32)
    skin = superellipse(x, y, a, (108 + 0 * z).astype(np.float32), 2.3)
    canvas.paint(skin, 620.0)
    canvas.paint(skin + 19, 260.0)
    canvas.paint(skin + 34, 420.0)
    organs: tuple[tuple[Point, Point, float], ...] = (
        ((-70, -20, 20), (72, 62, 90), 330.0),
        ((88, 35, 30), (30, 38, 50), 250.0),
        ((-58, 48, -40), (27, 26, 52), 480.0),
        ((58, 48, -34), (27, 26, 52), 480.0),
        ((40, -40, -20), (42, 30, 36), 180.0),
    )
    for centre, radii, value in organs:
        canvas.paint(ellipsoid(x, y, z, centre, radii), value)
    for centre, radius in (((34, -62, -10), 15), ((-20, -66, -60), 18), ((62, -50, -70), 13)):
        canvas.paint(ellipsoid(x, y, z, centre, (radius, radius, radius)), 0.0)
    column = ellipsoid(x, y, 0 * z, (0, 50, 0), (24, 20, 1e6))
    canvas.paint(column, 60.0)
    canvas.paint(column + 3, 380.0)
    canvas.paint(ellipsoid(x, y, 0 * z, (0, 80, 0), (10, 9, 1e6)), 700.0)
    canvas.paint(ellipsoid(x, y, 0 * z, (14, 22, 0), (10, 10, 1e6)), 20.0)
    inside: Mask = np.broadcast_to(canvas.cover(skin) >= 0.5, canvas.values.shape)
    return inside


def _oriented(phantom: Phantom, orientation: str) -> Phantom:
    axes = reorientation(phantom.volume.geometry, orientation)
    if axes.is_identity:
        return phantom
    volume, truth = phantom.volume.mapped(axes), phantom.segmentation.mapped(axes)
    return Phantom(
        Volume(np.ascontiguousarray(volume.voxels), volume.geometry, modality=volume.modality, units=volume.units),
        Segmentation(truth.geometry, tuple(np.ascontiguousarray(layer) for layer in truth.layers), truth.structures),
    )
