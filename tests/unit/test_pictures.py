"""Pictures show what is there, where it is."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from delineate.errors import GeometryError, MissingPartError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.pictures import contrast, preview
from delineate.segmentation import Segmentation, Structure
from delineate.testing.phantoms import abdomen_mr, chest_ct
from delineate.volume import Volume

RED, BLUE = (255, 0, 0), (0, 0, 255)


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    result = imread(io.BytesIO(png))
    assert result.ndim == 3 and result.shape[2] >= 3
    return np.asarray(result)[..., :3]


def redness(image: np.ndarray) -> np.ndarray:
    return image[..., 0] - image[..., 2] > 0.15


def blueness(image: np.ndarray) -> np.ndarray:
    return image[..., 2] - image[..., 0] > 0.15


def two_blocks(codes: str = "LPS") -> tuple[Volume, Segmentation]:
    """Left red, right blue, the red one further up and to the front; mid-grey image."""
    geometry = Geometry((40, 30, 26), (2.0, 2.5, 3.0), (5.0, -8.0, 11.0))
    left, right = np.zeros(geometry.shape, bool), np.zeros(geometry.shape, bool)
    left[14:20, 8:14, 24:34] = True
    right[6:12, 16:22, 6:16] = True
    labels = (left + 2 * right).astype(np.uint8)
    segmentation = Segmentation(geometry, (labels,), (Structure("Left", 1, colour=RED), Structure("Right", 2, colour=BLUE)))
    volume = Volume(np.full(geometry.shape, 40, np.int16), geometry)
    axes = reorientation(geometry, codes)
    return volume.mapped(axes), segmentation.mapped(axes)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "RPI", "SAL", "PIR", "ILA", "ASR"])
def test_left_is_on_the_right_in_every_orientation(codes: str) -> None:
    image = pixels(preview(*two_blocks(codes), window=(0, 100)))
    width = image.shape[1]
    coronal = image[:, : width // 2]  # axial and coronal planes come first; the legend last
    red, blue = redness(coronal), blueness(coronal)
    assert red.any() and blue.any()
    # The first plane is axial: right of the patient, blue, on the left; the front, red, above.
    first_red, first_blue = np.argwhere(red), np.argwhere(blue)
    assert first_red[:, 1].min() > first_blue[:, 1].min()


def test_same_picture_whatever_the_orientation() -> None:
    reference = preview(*two_blocks("LPS"))
    for codes in ("RAS", "SPL", "AIR"):
        assert preview(*two_blocks(codes)) == reference


def test_physical_aspect() -> None:
    """A cube in mm is a square in the axial plane, though its voxels are not."""
    geometry = Geometry((60, 30, 20), (2.0, 4.0, 6.0))
    mask = np.zeros(geometry.shape, bool)
    mask[5:15, 8:23, 15:45] = True
    segmentation = Segmentation(geometry, (mask.astype(np.uint8),), (Structure("Cube", 1, colour=RED),))
    image = pixels(preview(Volume(np.full(geometry.shape, 40, np.int16), geometry), segmentation, window=(0, 100)))
    place = np.argwhere(redness(image[:, : image.shape[1] // 4]))
    height, width = place.max(axis=0) - place.min(axis=0)
    assert height == pytest.approx(width, rel=0.05)


def test_empty_segmentation() -> None:
    volume, segmentation = two_blocks()
    empty = Segmentation(volume.geometry, segmentation.layers, ())
    image = pixels(preview(volume, empty, title="nothing here"))
    assert not redness(image).any() and image.max() > 0.5


def test_structures_without_voxels() -> None:
    volume, segmentation = two_blocks()
    nothing = Segmentation(volume.geometry, (np.zeros_like(segmentation.layers[0]),), segmentation.structures)
    assert redness(pixels(preview(volume, nothing))).any()  # in the legend


@pytest.mark.parametrize("size", [(40, 30, 1), (40, 1, 30), (1, 40, 30), (1, 1, 1), (5, 1, 1), (300, 4, 4)])
def test_flat_volumes(size: tuple[int, int, int]) -> None:
    geometry = Geometry(size, (1.0, 1.5, 2.0))
    labels = np.ones(geometry.shape, dtype=np.uint8)
    image = pixels(preview(Volume(np.full(geometry.shape, 7, np.int16), geometry), Segmentation.from_labels(labels, geometry, {1: "All"})))
    assert image.std() > 0


def test_many_structures() -> None:
    geometry = Geometry((64, 48, 20), (3.0, 3.0, 4.0))
    labels = (np.indices(geometry.shape)[2] + 1).astype(np.uint8)
    names = {k: f"Structure_with_a_rather_long_name_{k}" for k in range(1, 65)}
    image = pixels(preview(Volume(np.zeros(geometry.shape, np.int16), geometry), Segmentation.from_labels(labels, geometry, names)))
    assert image.shape[0] < 1000 and image.shape[1] < 2400


def test_contour_grids_and_strangers() -> None:
    volume, segmentation = two_blocks()
    assert preview(volume, segmentation.refined((2, 2, 1))) == preview(volume, segmentation)
    with pytest.raises(GeometryError) as caught:
        preview(volume, Segmentation.from_labels(np.ones((3, 4, 5), np.uint8), Geometry((5, 4, 3)), {1: "A"}))
    assert caught.value.advice


def test_windows_by_content() -> None:
    chest = chest_ct((80, 68, 40), (5.0, 5.0, 8.0))
    lungs = Segmentation.from_masks({"Lung_L": chest.segmentation.mask("Lung_L")}, chest.volume.geometry)
    bones = Segmentation.from_masks({"Bone": chest.segmentation.mask("Bone")}, chest.volume.geometry)
    assert pixels(preview(chest.volume, lungs)).mean() > pixels(preview(chest.volume, bones)).mean()
    magnetic = abdomen_mr((60, 48, 10), (6.0, 6.2, 9.0))
    assert pixels(preview(magnetic.volume, magnetic.segmentation)).mean() > 0.1
    holes = Volume(np.full(magnetic.volume.voxels.shape, np.nan, np.float32), magnetic.volume.geometry)
    assert pixels(preview(holes, magnetic.segmentation)).any()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPartError, match="matplotlib") as caught:
        preview(*two_blocks())
    assert "delineate[pictures]" in caught.value.advice


def test_names_are_text_not_formulas_nor_controls() -> None:
    geometry = Geometry((8, 8, 8))
    names = ("$\\frac{$", "a\nb\x1b[31m", "$x^$")
    masks = {name: np.ones((8, 8, 8), bool) for name in names}
    picture = preview(Volume(np.zeros((8, 8, 8), np.int16), geometry), Segmentation.from_masks(masks, geometry), title="$\\frac{$")
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("codes", ["LAS", "SPL"])
def test_label_maps_in_another_order_of_axes_lie_where_they_belong(codes: str) -> None:
    """As NIfTI files beside a DICOM series are: of the same size, and counted the other way."""
    volume, segmentation = two_blocks()
    turned = segmentation.mapped(reorientation(volume.geometry, codes))
    assert preview(volume, turned) == preview(volume, segmentation)
    shifted = Geometry(volume.geometry.size, volume.geometry.spacing, (0.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="another grid"):
        preview(volume, Segmentation(shifted, segmentation.layers, segmentation.structures))


def drawn(first: Segmentation, second: Segmentation, volume: Volume) -> np.ndarray:
    """The planes of a contrast, without its legend."""
    image = pixels(contrast(volume, first, second, [("Left", "Dice 1"), ("Right", "Dice 1")], title="A: a B: b"))
    return image[:, : int(image.shape[1] * 0.8)]


def test_two_opinions_are_both_seen_where_they_agree_and_where_not() -> None:
    volume, segmentation = two_blocks()
    moved = Segmentation(volume.geometry, (np.roll(segmentation.layers[0], 3, axis=2),), segmentation.structures)
    agreed, apart = drawn(segmentation, segmentation, volume), drawn(segmentation, moved, volume)
    for image in (agreed, apart):  # a line of A's blue, and B's orange dashes on it
        assert (blueness(image).sum() > 100) and (image[..., 0] - image[..., 2] > 0.4).sum() > 100
    assert blueness(apart).sum() > 1.2 * blueness(agreed).sum()


def test_opinions_are_drawn_where_they_differ_most_whatever_the_order_of_axes() -> None:
    volume, segmentation = two_blocks()
    grown = segmentation.layers[0].copy()
    grown[22] = 1
    other = Segmentation(volume.geometry, (grown,), segmentation.structures[:1])
    entries = [("Left", "")]
    picture = contrast(volume, segmentation, other, entries)
    assert picture == contrast(volume, segmentation, other.mapped(reorientation(volume.geometry, "RAS")), entries)
    bands = pixels(picture)[..., 0] - pixels(picture)[..., 2] > 0.3
    assert bands[:, : bands.shape[1] // 4].mean() > 0.2  # the slice that is B's alone fills the axial plane
