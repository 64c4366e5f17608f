"""Phantoms show what they say, on any grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.testing.phantoms import Phantom, abdomen_mr, chest_ct, chest_ct_on, index_pattern, nested_shapes, ring
from delineate.testing.phantoms.bodies import CENTRE

SIZE, SPACING = (44, 38, 33), (9.4, 9.8, 10.0)
ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations((("L", "R"), ("P", "A"), ("S", "I")))
    for letters in itertools.product(*pairs)
]  # fmt: skip


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return chest_ct(SIZE, SPACING)


def centroid(phantom: Phantom, name: str) -> np.ndarray:
    index = np.argwhere(phantom.segmentation.mask(name))[:, ::-1].mean(axis=0)
    return phantom.segmentation.geometry.to_world(index)


def test_chest_is_a_ct(chest: Phantom) -> None:
    values = chest.volume.values()
    assert chest.volume.modality == "CT" and chest.volume.units == "HU"
    assert values.dtype == np.int16 and chest.volume.geometry.size == SIZE
    assert np.median(values[chest.segmentation.mask("Lung_R")]) == pytest.approx(-860, abs=60)
    assert np.median(values[chest.segmentation.mask("Heart")]) == pytest.approx(48, abs=20)
    assert np.percentile(values[chest.segmentation.mask("Bone")], 75) > 250
    assert np.median(values[~chest.segmentation.mask("Body")]) < -900


def test_chest_is_asymmetric(chest: Phantom) -> None:
    truth = chest.segmentation
    assert truth.volume_ml("Lung_R") > 1.1 * truth.volume_ml("Lung_L") > 800
    left, right, heart = (centroid(chest, name)[0] for name in ("Lung_L", "Lung_R", "Heart"))
    assert right < heart < left  # LPS: x grows to the left
    assert heart > CENTRE[0] + 10
    assert len(set(chest.volume.geometry.size)) == 3 and len(set(SPACING)) == 3


def test_structures_do_not_overlap_but_for_the_body(chest: Phantom) -> None:
    truth = chest.segmentation
    total = sum(truth.mask(name).astype(int) for name in truth.names if name != "Body")
    assert total.max() == 1
    for name in ("Lung_L", "Lung_R", "Heart", "Trachea"):
        assert not (truth.mask(name) & ~truth.mask("Body")).any()


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_orientations_show_the_same_body(chest: Phantom, codes: str) -> None:
    other = chest_ct(SIZE, SPACING, orientation=codes)
    assert other.volume.geometry.axis_codes == codes
    assert other.volume.voxels.flags.c_contiguous
    back = reorientation(other.volume.geometry, "LPS")
    np.testing.assert_array_equal(other.volume.mapped(back).voxels, chest.volume.voxels)
    assert other.volume.mapped(back).geometry.matches(chest.volume.geometry)
    np.testing.assert_array_equal(other.segmentation.mapped(back).mask("Lung_L"), chest.segmentation.mask("Lung_L"))


def test_oblique_grids_show_the_same_body(chest: Phantom) -> None:
    angle = np.deg2rad(17)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    half = (np.array(SIZE) - 1) / 2 * np.array(SPACING)
    oblique = chest_ct_on(Geometry(SIZE, SPACING, tuple(np.array(CENTRE) - turn @ half), tuple(turn.ravel())))
    for name in ("Lung_L", "Lung_R", "Heart"):
        np.testing.assert_allclose(centroid(oblique, name), centroid(chest, name), atol=2.5)
        assert oblique.segmentation.volume_ml(name) == pytest.approx(chest.segmentation.volume_ml(name), rel=0.06)


def test_spacing_does_not_move_anything(chest: Phantom) -> None:
    fine = chest_ct((88, 76, 33), (4.7, 4.9, 10.0))
    for name in ("Lung_L", "Lung_R", "Heart"):
        np.testing.assert_allclose(centroid(fine, name), centroid(chest, name), atol=2.0)


def test_same_seed_same_image(chest: Phantom) -> None:
    np.testing.assert_array_equal(chest_ct(SIZE, SPACING).volume.voxels, chest.volume.voxels)
    assert (chest_ct(SIZE, SPACING, seed=1).volume.voxels != chest.volume.voxels).mean() > 0.5


def test_details(chest: Phantom) -> None:
    def mean_below(phantom: Phantom) -> float:
        y = np.arange(SIZE[1]) * SPACING[1] - (SIZE[1] - 1) / 2 * SPACING[1]
        return float(phantom.volume.voxels[16][y > 125].mean())

    assert mean_below(chest) > mean_below(chest_ct(SIZE, SPACING, table=False)) + 10
    wide = chest_ct((60, 38, 33), SPACING, arms=True).segmentation
    assert wide.volume_ml("Body") > chest.segmentation.volume_ml("Body") + 1500
    assert chest_ct(SIZE, SPACING, lungs="R").segmentation.volume_ml("Lung_L") == 0
    contrast = chest_ct(SIZE, SPACING, contrast=True)
    assert contrast.volume.voxels[contrast.segmentation.mask("Heart")].max() > 250


def test_abdomen_mr() -> None:
    phantom = abdomen_mr((60, 48, 10), (6.0, 6.2, 9.0), orientation="RAS")
    values, body = phantom.volume.values(), phantom.segmentation.mask("Body")
    assert phantom.volume.modality == "MR" and values.dtype == np.uint16
    assert phantom.volume.geometry.axis_codes == "RAS"
    assert 5 < values[~body].mean() < 40 < np.median(values[body])


def test_index_pattern_names_its_index() -> None:
    pattern = index_pattern(Geometry((7, 5, 3)))
    assert pattern.voxels[2, 4, 6] == 2_004_006
    assert np.unique(pattern.voxels).size == 105
    with pytest.raises(ValueError, match="1000"):
        index_pattern(Geometry((1001, 1, 1)))


def test_shapes() -> None:
    geometry = Geometry((24, 20, 10), (1.0, 1.2, 3.0))
    hollow = ring(geometry)
    assert hollow.names == ["Ring", "Core"] and len(hollow.layers) == 1
    middle = hollow.layers[0][5]
    assert middle[10, 12] == 2 and 1 in middle and middle[0, 0] == 0
    assert ring(geometry, hole=False).names == ["Ring"]
    nested = nested_shapes(geometry)
    assert len(nested.layers) == 3
    inner, middle_mask, outer = (nested.mask(n) for n in ("Inner", "Middle", "Outer"))
    assert inner.any() and not (inner & ~middle_mask).any() and not (middle_mask & ~outer).any()
    assert (np.argwhere(inner).mean(axis=0) > np.argwhere(outer).mean(axis=0)).all()
