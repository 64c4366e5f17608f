from __future__ import annotations

import numpy as np
import pytest

from delineate.errors import GeometryError, InputError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.segmentation import Segmentation, Structure, label_dtype
from delineate.volume import Volume

GRID = Geometry((4, 3, 2), (1.0, 2.0, 5.0))


def masks() -> dict[str, np.ndarray]:
    heart, lung, body = (np.zeros(GRID.shape, dtype=bool) for _ in range(3))
    heart[0, 0, :2] = True
    lung[0, 0, 2:] = True
    body[:] = True
    return {"Heart": heart, "Lung_L": lung, "Body": body}


def test_overlapping_masks_get_layers_of_their_own() -> None:
    segmentation = Segmentation.from_masks(masks(), GRID)
    assert [s.layer for s in segmentation] == [0, 0, 1]
    assert segmentation.names == ["Heart", "Lung_L", "Body"]
    for name, mask in masks().items():
        np.testing.assert_array_equal(segmentation.mask(name), mask)
    assert segmentation.volume_ml("Heart") == pytest.approx(2 * 10 / 1000)


def test_no_masks_make_one_empty_layer() -> None:
    empty = Segmentation.from_masks({}, GRID)
    assert not empty.layers[0].any()
    assert empty.names == []


def test_what_is_refused() -> None:
    labels = np.zeros(GRID.shape, np.uint8)
    with pytest.raises(GeometryError):
        Segmentation(GRID, (labels[:1],), ())
    with pytest.raises(GeometryError):
        Segmentation.from_masks({"Heart": np.zeros((1, 1, 1))}, GRID)
    with pytest.raises(InputError, match="unsigned"):
        Segmentation(GRID, (labels.astype(np.int16),), ())
    with pytest.raises(InputError, match="twice"):
        Segmentation(GRID, (labels,), (Structure("A", 1), Structure("A", 2)))
    with pytest.raises(InputError, match="share"):
        Segmentation(GRID, (labels,), (Structure("A", 1), Structure("B", 1)))
    with pytest.raises(InputError, match="layer"):
        Segmentation(GRID, (labels,), (Structure("A", 1, layer=1),))
    with pytest.raises(InputError):
        Structure("A", 0)
    with pytest.raises(InputError):
        Structure(" ", 1)


def test_lookup_by_name() -> None:
    segmentation = Segmentation.from_labels(np.ones(GRID.shape, np.uint8), GRID, {2: "B", 1: "A"})
    assert segmentation["B"].label == 2
    assert segmentation.names == ["A", "B"]
    with pytest.raises(KeyError):
        segmentation["C"]


def test_refining_repeats_voxels_in_place() -> None:
    segmentation = Segmentation.from_masks(masks(), GRID)
    fine = segmentation.refined((2, 3, 1))
    assert fine.geometry == GRID.refined((2, 3, 1))
    z, y, x = np.indices(fine.geometry.shape)
    for name in segmentation.names:
        place = fine.geometry.to_world(np.stack([x, y, z], axis=-1))
        index = np.rint(GRID.to_index(place)).astype(int)
        np.testing.assert_array_equal(fine.mask(name), segmentation.mask(name)[index[..., 2], index[..., 1], index[..., 0]])


def test_mapping_and_back() -> None:
    segmentation = Segmentation.from_masks(masks(), GRID)
    axes = reorientation(GRID, "IRA")
    back = segmentation.mapped(axes).mapped(axes.inverse())
    assert back.geometry.matches(GRID)
    for name in segmentation.names:
        np.testing.assert_array_equal(back.mask(name), segmentation.mask(name))


def test_smallest_types() -> None:
    assert [label_dtype(n) for n in (0, 255, 256, 65535, 65536)] == [np.uint8, np.uint8, np.uint16, np.uint16, np.uint32]
    with pytest.raises(InputError):
        label_dtype(1 << 32)


def test_colours_come_from_the_structure_or_the_palette() -> None:
    assert Structure("A", 1, colour=(1, 2, 3)).rgb() == (1, 2, 3)
    assert Structure("A", 1).rgb() != Structure("B", 2).rgb()


def nameless(*structures: Structure) -> Segmentation:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[0, 0] = (1, 1, 3, 0)
    return Segmentation(GRID, (labels,), structures or (Structure("label_1", 1), Structure("label_3", 3)))


def test_names_come_from_the_file_then_from_what_was_sent_then_from_what_is_likely() -> None:
    assert nameless().named({}, {}).names == ["label_1", "label_3"]
    found = nameless().named({1: "Heart", 2: "Liver"}, {1: "Lung", 3: "Spleen", 9: "Bone"})
    assert {s.name: s.label for s in found} == {"Heart": 1, "Liver": 2, "Spleen": 3}, "what was sent may be absent, what is likely not"
    told = nameless(Structure("Aorta", 1, colour=(1, 2, 3)), Structure("label_3", 3))
    assert told.named({1: "Heart", 3: "Vein"}, {}).structures == (Structure("Aorta", 1, colour=(1, 2, 3)), Structure("Vein", 3))


def test_no_name_is_given_twice() -> None:
    told = nameless(Structure("Aorta", 1), Structure("label_3", 3))
    assert told.named({2: "Aorta", 3: "Aorta"}, {}).names == ["Aorta", "label_3"]
    assert nameless().named({1: "label_3"}, {3: "Heart"}).names == ["label_1", "Heart"]
    assert nameless().named({1: "Heart"}, {3: "Heart"}).names == ["Heart", "label_3"]


def test_names_are_those_of_the_first_layer() -> None:
    both = Segmentation(GRID, nameless().layers * 2, (Structure("label_1", 1), Structure("label_1_2", 1, 1), Structure("Lung", 3, 1)))
    assert [(s.name, s.layer) for s in both.named({1: "Heart"}, {})] == [("Heart", 0), ("label_1_2", 1), ("Lung", 1)]


def test_what_is_printed_is_short() -> None:
    """In a notebook; not all voxels."""
    grid = Geometry((40, 30, 20), (1.0, 1.0, 1.0))
    shown = repr(Segmentation.from_labels(np.ones(grid.shape, np.uint8), grid, {1: "Liver"})) + repr(Volume(np.zeros(grid.shape), grid))
    assert "Liver" in shown and "array" not in shown
