"""Training: structures whose labels stop in the middle of them, and sides that are known by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

try:
    import lightgbm  # noqa: F401
except (ImportError, OSError):  # the latter without the system's libgomp
    pytest.skip("LightGBM cannot be loaded: it needs the system's libgomp1", allow_module_level=True)

from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.training import applying
from delineate.training.continuing import continued
from delineate.training.forest import Forest, grow
from delineate.training.lessons import are_sides
from delineate.training.sampling import Case, Samples, chosen, look
from delineate.training.working import HU
from delineate.volume import Volume

SPACING = 5.0
SHAPE = (30, 56, 64)
THIN = 9
"""Planes below this hold slivers only."""


@pytest.fixture(scope="module", autouse=True)
def few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("delineate.training.boosting.ROUNDS", 25)
        patch.setattr("delineate.training.continuing._TREES", 12)
        yield


def wedges(seed: int = 0, moved: int = 0) -> Case:
    """Two lungs in a trunk: in the lower planes slivers at its back, upwards ever thicker."""
    z, y, x = np.ogrid[:30, :56, :64]
    body = ((y - 28) / 24) ** 2 + ((x - 32) / 29) ** 2 + 0 * z < 1
    inner = ((y - 28) / 20) ** 2 + ((x - 32) / 25) ** 2 + 0 * z < 1
    thick = np.clip(z - 3 + moved, 0, 24)
    lung = inner & (y > 47 - thick) & (np.abs(x - 32) > 4) & (thick > 0)
    values = np.where(body, 40.0, -1000.0)
    values[lung] = -850
    values = ndimage.gaussian_filter(values, 0.5) + np.random.default_rng(seed).normal(0, 15, SHAPE)
    geometry = Geometry(size=SHAPE[::-1], spacing=(SPACING,) * 3)
    masks = {"Lung_R": lung & (x < 32), "Lung_L": lung & (x >= 32)}
    return Case(Volume(values.astype(np.float32), geometry, modality="CT", units=HU), Segmentation.from_masks(masks, geometry))


def below(case: Case, planes: int) -> Case:
    """Labelled in the lower planes, nothing said of which were looked at."""
    looked = (np.arange(SHAPE[0]) < planes)[:, None, None]
    return replace(case, labels=replace(case.labels, layers=tuple(layer * looked for layer in case.labels.layers)))


@pytest.fixture(scope="module")
def seen() -> tuple[Samples, Samples]:
    """What the slivers show, and what is seen beyond them."""
    looked = look(below(wedges(), THIN), SPACING, HU)
    samples = chosen(looked)
    return samples, continued(samples, looked)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def worst(forest: Forest, case: Case) -> float:
    found = applying.segment(forest, case.image)
    return min(dice(found.mask(name), case.labels.mask(name)) for name in found.names)


def test_slivers_teach_what_they_become(seen: tuple[Samples, Samples]) -> None:
    other = wedges(3, 12)
    before, after = (grow([samples], spacing=SPACING, scale=HU) for samples in seen)
    assert worst(before, other) < 0.5
    assert min(worst(after, other), worst(after, wedges())) > 0.9


def test_what_was_labelled_stays_as_it_was(seen: tuple[Samples, Samples]) -> None:
    before, after = seen
    count = len(before.rows)
    assert len(after.rows) > count and not after.held[count:].any()
    for name in ("rows", "truth", "known", "held", "weight"):
        assert (getattr(after, name)[:count] == getattr(before, name)).all()
    assert after.known[count:].any(axis=1).all()
    truth = after.truth[count:]
    for label in (1, 2):
        assert (truth == label).any() and after.known[count:, label - 1][truth == label].all()


def test_nothing_is_looked_for_between_labels_or_where_a_structure_ends() -> None:
    whole = wedges()
    every = np.arange(SHAPE[0])[:, None, None] % 4 == 0
    between = replace(whole, labels=replace(whole.labels, layers=tuple(layer * every for layer in whole.labels.layers)))
    said = replace(below(whole, THIN), annotated=np.ones((1, 1, 1), bool))
    for case in (between, said):
        looked = look(case, SPACING, HU)
        samples = chosen(looked)
        assert continued(samples, looked) is samples


@pytest.mark.parametrize(
    ("one", "other", "sides"),
    [
        ("Lung_L", "Lung_R", True),
        ("right kidney", "Left Kidney", True),
        ("lung_upper_lobe_left", "lung_upper_lobe_right", True),
        ("LungR", "LungL", True),
        ("Lung_L", "Lung_L", False),
        ("Lung_L", "Kidney_R", False),
        ("Lung", "Lung_R", False),
        ("liver", "spleen", False),
    ],
)
def test_sides_by_their_names(one: str, other: str, sides: bool) -> None:
    assert are_sides(one, other) is sides
