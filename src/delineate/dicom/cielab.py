"""Colours as DICOM keeps them for display: CIELab of the profile connection space (D50), 16 bits each (PS3.3, C.10.7.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delineate.segmentation import Colour

# sRGB (IEC 61966-2-1) to XYZ, adapted to D50 (Bradford).
_TO_XYZ = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]])
_WHITE = np.array([0.96422, 1.0, 0.82521])
_DELTA = 6 / 29


def to_cielab(colour: Colour) -> list[int]:
    """Of RGB 0-255."""
    value = np.array(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    ratio = _TO_XYZ @ linear / _WHITE
    x, y, z = np.where(ratio > _DELTA**3, np.cbrt(ratio), ratio / (3 * _DELTA**2) + 4 / 29)
    lab = np.array([(116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255])
    return [int(part) for part in np.clip(np.round(lab * 65535), 0, 65535)]


def from_cielab(values: Sequence[int]) -> Colour:
    """RGB 0-255; what sRGB does not have is cut off."""
    lightness, a, b = np.array(values, dtype=np.float64) / 65535 * (100, 255, 255) - (0, 128, 128)
    y = (lightness + 16) / 116
    root = np.array([y + a / 500, y, y - b / 200])
    ratio = np.where(root > _DELTA, root**3, 3 * _DELTA**2 * (root - 4 / 29))
    linear = np.clip(np.linalg.solve(_TO_XYZ, ratio * _WHITE), 0, 1)
    value = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = np.round(value * 255).astype(int).tolist()
    return red, green, blue
