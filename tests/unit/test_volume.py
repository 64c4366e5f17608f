from __future__ import annotations

import numpy as np
import pytest

from delineate.errors import GeometryError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.volume import Volume


def test_an_array_must_fit_its_grid() -> None:
    with pytest.raises(GeometryError, match="does not fit"):
        Volume(np.zeros((2, 3, 4)), Geometry((2, 3, 4)))


def test_real_values() -> None:
    stored = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    plain = Volume(stored, Geometry((2, 3, 4)))
    assert plain.values() is stored
    assert not plain.is_rescaled
    scaled = Volume(stored, Geometry((2, 3, 4)), slope=2.0, intercept=-1024.0)
    assert scaled.values().dtype == np.float32
    np.testing.assert_array_equal(scaled.values(), stored * 2.0 - 1024.0)


def test_mapping_is_a_view_and_keeps_the_rest() -> None:
    stored = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    image = Volume(stored, Geometry((2, 3, 4)), 2.0, -1.0, "CT", "HU")
    mapped = image.mapped(reorientation(image.geometry, "SRA"))
    assert np.shares_memory(mapped.voxels, stored)
    assert mapped.geometry.axis_codes == "SRA"
    assert (mapped.slope, mapped.intercept, mapped.modality, mapped.units) == (2.0, -1.0, "CT", "HU")


def test_whole_numbers_stay_whole_under_a_whole_intercept() -> None:
    for kind, low, high, wide in ((np.uint16, 0, 4095, np.int16), (np.uint16, 0, 65535, np.int32), (np.int16, -32768, 5, np.int32)):
        stored = np.array([low, high], dtype=kind).reshape(1, 1, 2)
        real = Volume(stored, Geometry((2, 1, 1)), 1.0, -1024.0).values()
        assert real.dtype == wide
        np.testing.assert_array_equal(real.ravel(), [low - 1024, high - 1024])
    back = Volume(np.array([[[40000, 60000]]], dtype=np.uint16), Geometry((2, 1, 1)), 1.0, -40000.0).values()
    assert back.dtype == np.int16 and back.ravel().tolist() == [0, 20000]
