"""A chest CT out of ellipses and rods: asymmetric on purpose, so that a mistake of side, axis or spacing shows.

Lengths are those of an adult in millimetres around the middle of the chest: x to the left, y to the back, z to the
head. Values are Hounsfield units usual for each tissue at 120 kV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from delineate.testing.phantoms.scene import Array, Canvas, Mask, Point, ellipsoid, grain, intersection, superellipse

AIR, LUNG, FAT, MUSCLE, BLOOD, LIVER, CORTEX, MARROW, DISC, CARTILAGE = -1000.0, -860.0, -100.0, 50.0, 45.0, 60.0, 650.0, 190.0, 75.0, 110.0

CARINA: Point = (-2.0, 8.0, 22.0)
TRACHEA: tuple[tuple[Point, Point, float], ...] = (((-1.0, -8.0, 330.0), (-1.0, -8.0, 150.0), 8.5), ((-1.0, -8.0, 150.0), CARINA, 9.0))
MAIN_BRONCHI: tuple[tuple[Point, Point, float], ...] = ((CARINA, (-34.0, 13.0, 0.0), 7.5), (CARINA, (44.0, 15.0, -6.0), 6.5))
SMALL_BRONCHI: tuple[tuple[Point, Point, float], ...] = (
    ((-34.0, 13.0, 0.0), (-62.0, 2.0, 28.0), 3.5),
    ((-34.0, 13.0, 0.0), (-60.0, 30.0, -48.0), 4.0),
    ((44.0, 15.0, -6.0), (68.0, 0.0, 26.0), 3.2),
    ((44.0, 15.0, -6.0), (70.0, 34.0, -52.0), 3.6),
)
GREAT_VESSELS: tuple[tuple[Point, Point, float], ...] = (
    ((20.0, 42.0, -330.0), (18.0, 38.0, 55.0), 12.0),
    ((18.0, 38.0, 55.0), (2.0, -14.0, 68.0), 13.0),
    ((2.0, -14.0, 68.0), (4.0, -26.0, -5.0), 14.0),
    ((-24.0, -12.0, 70.0), (-24.0, -14.0, -10.0), 9.0),
)


@dataclass(frozen=True, kw_only=True)
class Chest:
    """What varies: `lungs` are the sides that are there; the missing one's place holds fluid."""

    seed: int = 0
    table: bool = True
    arms: bool = False
    clothes: bool = True
    contrast: bool = False
    lungs: str = "LR"
    noise: float = 16.0


def paint_chest(canvas: Canvas, chest: Chest, first: int) -> dict[str, Mask]:
    """Paint one slab, whose first slice is number `first` of the volume; the truth as masks by name."""
    x, y, z = canvas.x, canvas.y, canvas.z
    outline = _skin(x, y, z)
    arms = _arms(canvas) if chest.arms else None
    skin = outline if arms is None else np.minimum(outline, arms)
    _surroundings(canvas, chest, outline, skin)
    canvas.paint(skin, FAT)
    canvas.paint(np.maximum(_skin(x, y * np.float32(1.02), z) + 16 + 4 * np.sin(x / 37) * np.cos(z / 51), -canvas.width * 9), MUSCLE)
    if arms is not None:
        canvas.paint(arms + 11, MUSCLE)
    cavity = _cavity(x, y, z)
    _abdomen(canvas, cavity)
    lungs = _lungs(canvas, chest, cavity)
    heart = _heart(canvas, chest)
    airways = _airways(canvas, lungs)
    bone = _bones(canvas, cavity, chest.arms)
    masks = {"Body": np.broadcast_to(canvas.cover(skin) >= 0.5, canvas.values.shape)}
    for name in ("Lung_L", "Lung_R"):
        masks[name] = lungs[name] & ~airways["wall"] & ~bone & ~heart
    masks["Bone"] = bone
    masks["Heart"] = heart & ~bone
    masks["Trachea"] = airways["Trachea"]
    masks["Bronchus_Main"] = airways["Bronchus_Main"] & ~airways["Trachea"]
    canvas.values += np.float32(chest.noise) * grain(canvas.values.shape, chest.seed, first)
    return masks


def _skin(x: Array, y: Array, z: Array) -> Array:
    """Trunk that widens to the shoulders and narrows to the neck."""
    shoulder = np.exp(-(((z - 118) / 42) ** 2))
    neck = 1 / (1 + np.exp(-(z - 142) / 7))
    a = (168 + 28 * shoulder) * (1 - neck) + 62 * neck
    b = (112 - 14 * shoulder) * (1 - neck) + 62 * neck
    return superellipse(x, y - 8 * neck, a.astype(np.float32), b.astype(np.float32), 2.4)


def _spine_curve(z: Array) -> Array:
    """How far the spine comes forward from its place in the chest, mm: the neck stands before the back."""
    result: Array = -50 / (1 + np.exp(-(z - 121) / 11))
    return result


def _cavity(x: Array, y: Array, z: Array) -> Array:
    """Inside of the rib cage: closed above at the apices."""
    height = np.clip((z + 60) / 190, 0, 0.9999) ** 2
    narrow = np.sqrt(1 - height).astype(np.float32)
    a, b = 128 * narrow + 2, 84 * narrow**0.7 + 2
    return superellipse(x, y + 4 - 12 * (1 - narrow), a.astype(np.float32), b.astype(np.float32), 2.2)


def _dome(x: Array, y: Array, centre: float, top: float) -> Array:
    """Height of the diaphragm: lower at the back and at the side (the costophrenic angle)."""
    result: Array = top - 62 * (((x - centre) / 78) ** 2 + ((y + 12) / 92) ** 2)
    return result


def _lungs(canvas: Canvas, chest: Chest, cavity: Array) -> dict[str, Mask]:
    x, y, z = canvas.x, canvas.y, canvas.z
    column = ellipsoid(x, y - _spine_curve(z), 0 * z, (0, 58, 0), (40, 30, 1e6))
    vessels = superellipse(x - 4, y + 2, np.full_like(x, 33.0), np.full_like(x, 62.0), 3.0)
    # In front of the heart only a pleural fold of some millimetres parts the lungs: they nearly touch.
    fold = np.abs(x - 3) - np.where((y < -48) & (z > 0), 3.0, 12.0).astype(np.float32)
    middle = np.minimum(np.minimum(column, vessels), fold)
    heart = _heart_shape(x, y, z) - 3
    found = {}
    for name, side, centre, top in (("Lung_L", 1, 66.0, -78.0), ("Lung_R", -1, -64.0, -58.0)):
        shape = intersection(cavity + 7, -side * x, -middle, -heart, (_dome(x, y, centre, top) - z) * np.float32(0.75))
        there = name[-1] in chest.lungs
        texture = LUNG + 45 * (y / 90) + 14 * np.sin(x / 9 + 2 * np.sin(z / 11)) * np.cos(y / 8 - z / 13)
        canvas.paint(shape, texture.astype(np.float32) if there else 12.0)
        found[name] = (canvas.cover(shape) >= 0.5) & there
        if there:
            _vessels(canvas, chest.seed, side)
    return found


def _vessels(canvas: Canvas, seed: int, side: int) -> None:
    """Branches from the hilum that thin out; clipped to where lung already is by their bounds."""
    random = np.random.default_rng([seed, 7, side + 1])
    hilum = np.array([38.0 * side, 8.0, -8.0])
    for _ in range(70):
        direction = random.normal(size=3) * (0.8, 0.8, 1.1) + (0.9 * side, 0, 0)
        direction /= np.linalg.norm(direction)
        start, radius = hilum.copy(), random.uniform(1.8, 4.4)
        for _ in range(6):
            end = start + direction * random.uniform(10, 18)
            if float(_lung_room(end, side)) > -radius - 6:
                break
            canvas.capsule((start[0], start[1], start[2]), (end[0], end[1], end[2]), radius, BLOOD)
            start, radius = end, radius * 0.74
            direction += random.normal(size=3) * 0.3
            direction /= np.linalg.norm(direction)


def _lung_room(point: np.ndarray, side: int) -> Array:
    """About how deep a point is in the lung of one side, mm; negative inside."""
    x, y, z = (np.asarray(v, dtype=np.float32) for v in point)
    centre, top = (66.0, -78.0) if side > 0 else (-64.0, -58.0)
    return intersection(_cavity(x, y, z) + 7, (_dome(x, y, centre, top) - z) * np.float32(0.75), 30 - side * x)


def _heart_shape(x: Array, y: Array, z: Array) -> Array:
    # Tilted: its long axis points down, to the front and to the left.
    u = (x - 26) * 0.85 - (z + 42) * 0.53
    w = (x - 26) * 0.53 + (z + 42) * 0.85
    return ellipsoid(u, y + 26, w, (0, 0, 0), (66, 44, 48))


def _heart(canvas: Canvas, chest: Chest) -> Mask:
    x, y, z = canvas.x, canvas.y, canvas.z
    blood = 330.0 if chest.contrast else BLOOD
    shape = np.broadcast_to(_heart_shape(x, y, z), canvas.values.shape)
    canvas.paint(shape, MUSCLE)
    canvas.paint(ellipsoid(x, y, z, (34, -24, -52), (30, 24, 28)), blood)
    canvas.paint(ellipsoid(x, y, z, (-4, -30, -34), (22, 22, 24)), blood * 0.9)
    for start, end, radius in GREAT_VESSELS:
        canvas.capsule(start, end, radius + 1.5, MUSCLE)
        canvas.capsule(start, end, radius, blood)
    inside: Mask = canvas.cover(shape) >= 0.5
    return inside


def _airways(canvas: Canvas, lungs: dict[str, Mask]) -> dict[str, Mask]:
    shape = canvas.values.shape
    found = {name: np.zeros(shape, dtype=bool) for name in ("wall", "Trachea", "Bronchus_Main")}
    for rods, name, wall in ((TRACHEA, "Trachea", 2.2), (MAIN_BRONCHI, "Bronchus_Main", 1.8), (SMALL_BRONCHI, "", 1.0)):
        for start, end, radius in rods:
            canvas.capsule(start, end, radius + wall, 25.0, found["wall"] if name else None)
    for rods, name in ((TRACHEA, "Trachea"), (MAIN_BRONCHI, "Bronchus_Main"), (SMALL_BRONCHI, "")):
        for start, end, radius in rods:
            canvas.capsule(start, end, radius, AIR, found[name] if name else None)
    # What juts out of the mediastinum into a lung is wall, not lung; beyond it a bronchus is part of its lung.
    found["Trachea"] &= ~(lungs["Lung_L"] | lungs["Lung_R"]) | found["wall"]
    return found


def _abdomen(canvas: Canvas, cavity: Array) -> None:
    x, y, z = canvas.x, canvas.y, canvas.z
    inside = np.maximum(cavity + 8, z + 45)
    canvas.paint(inside, -70.0)
    canvas.paint(intersection(inside + 3, x - 38 - 0.3 * (z + 100), z - _dome(x, y, -64, -58) + 4), LIVER)
    canvas.paint(ellipsoid(x, y, z, (92, 48, -130), (28, 34, 48)), 52.0)
    stomach = ellipsoid(x, y, z, (66, -22, -136), (44, 34, 36))
    canvas.paint(stomach, 40.0)
    canvas.paint(stomach + 4, 15.0)
    # The gas floats: a level in the stomach of a patient who lies on the back.
    canvas.paint(np.maximum(stomach + 4, y + 34), AIR)
    canvas.paint(ellipsoid(x, y, z, (100, -30, -190), (22, 18, 30)), AIR)


def _bones(canvas: Canvas, cavity: Array, arms: bool) -> Mask:
    x, y, z = canvas.x, canvas.y, canvas.z
    shape = canvas.values.shape
    bone = np.zeros(shape, dtype=bool)

    def lay(distance: Array, rind: float) -> None:
        canvas.paint(distance, CORTEX)
        canvas.paint(distance + rind, MARROW)
        np.logical_or(bone, canvas.cover(distance) >= 0.5, out=bone)

    level = np.mod(z + 400, 26) - 13
    cavity_y, y = y, y - _spine_curve(z)
    canvas.paint(ellipsoid(x, y, 0 * z, (0, 64, 0), (19, 15, 1e6)), DISC)
    lay(np.maximum(ellipsoid(x, y, 0 * z, (0, 64, 0), (20, 16, 1e6)), np.abs(level) - 10), 2.2)
    ring = np.abs(np.sqrt(x**2 + (y - 87) ** 2) - 12) - 3
    lay(np.maximum(ring, np.abs(level + 2) - 9), 1.6)
    lay(intersection(np.abs(x) - 3.2, np.abs(y - 100) - 7, np.abs(level + 4) - 7), 1.6)
    lay(intersection(np.abs(np.abs(x) - 24) - 12, np.abs(y - 86 - 0.15 * np.abs(x)) - 4, np.abs(level) - 5), 1.6)
    y = cavity_y
    angle = np.arctan2(np.abs(x), y + 4)  # 0 at the spine, pi at the sternum
    fall = 58 * np.sin(angle / 2) ** 2
    rib = np.sqrt((cavity - 1) ** 2 + (0.8 * (np.mod(z + fall + 400, 26) - 13)) ** 2) - 5.0
    limits = intersection(rib, (0.24 - angle) * 80, z + fall - 116, -140 - z)
    canvas.paint(intersection(limits, (angle - 2.82) * 60) + 1, CARTILAGE)
    lay(np.maximum(limits, (angle - 2.2) * 60), 1.8)
    front = -98 + 0.10 * np.abs(z)
    lay(intersection(np.abs(x) - 17, np.abs(y - front) - 5.5, np.abs(z - 25) - 65), 1.6)
    _limbs(canvas, bone, arms)
    return bone


def _limbs(canvas: Canvas, bone: Mask, arms: bool) -> None:
    rods: list[tuple[Point, Point, float, float]] = []
    for side in (-1.0, 1.0):
        rods += [
            ((18 * side, -80.0, 98.0), (70 * side, -62.0, 108.0), 6.0, 1.8),
            ((70 * side, -62.0, 108.0), (142 * side, -22.0, 122.0), 5.5, 1.8),
        ]
        for k in range(6):  # the blade of the scapula: rods side by side
            top, bottom = (78 + 6 * k, 88 - 4 * k, 96 - 4 * k), (96 + 3 * k, 82 - 2 * k, 10 * k)
            rods += [((top[0] * side, top[1], top[2]), (bottom[0] * side, bottom[1], bottom[2]), 3.8, 1.5)]
        rods += [((160 * side, 6.0, 112.0), (163 * side, 6.0, 108.0), 21.0, 2.5)]
        if arms:
            rods += [((172 * side, 8.0, 104.0), (226 * side, 14.0, -70.0), 11.0, 4.5)]
            rods += [((226 * side, 14.0, -70.0), (236 * side, 4.0, -330.0), 9.0, 3.5)]
    for value, inner in ((CORTEX, False), (MARROW, True)):
        for start, end, radius, rind in rods:
            canvas.capsule(start, end, radius - (rind if inner else 0), value, None if inner else bone)


def _arms(canvas: Canvas) -> Array:
    """Hanging down beside the trunk, apart from it below the elbow's height."""
    result = np.full(canvas.values.shape, 1e3, dtype=np.float32)
    z = np.clip(canvas.z, -330, 104)
    for side in (-1, 1):
        x0, y0 = side * np.interp(z, (-330, -70, 104), (236, 226, 172)), np.interp(z, (-330, -70, 104), (4, 14, 8))
        limb = np.sqrt((canvas.x - x0) ** 2 + (canvas.y - y0) ** 2 + (canvas.z - z) ** 2) - np.interp(z, (-330, 104), (32, 42))
        np.minimum(result, limb, out=result)
    return result


def _surroundings(canvas: Canvas, chest: Chest, outline: Array, skin: Array) -> None:
    x, y, z = canvas.x, canvas.y, canvas.z
    if chest.table:
        top = 116.5 - 24 * (x / 215) ** 2
        board = intersection(top - y, y - 154 + 20 * (x / 215) ** 2, np.abs(x) - 212)
        canvas.paint(board, 20.0)
        canvas.paint(board + 2.5, -940.0)
    if chest.clothes:
        wrinkle = 3.2 + 2.6 * np.sin(x / 19 + z / 33) * np.cos(y / 23)
        canvas.paint(np.abs(skin - wrinkle) - 0.8, -420.0)
        blanket = np.maximum(np.abs(outline - 17 - 5 * np.sin(x / 41 + z / 60)) - 2.5, np.maximum(y - 60, z - 70))
        canvas.paint(blanket, -820.0)
