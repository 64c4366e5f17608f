"""Marrow of bones that the image's ends cut, on rings drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from delineate.models.skeleton import CUT, _cut_marrow, _marrow

SLICES, SIZE = 21, 60
SPACING = (3.0, 2.0, 2.0)
CORTEX, SOFT = 320, 40


class Vertebra:
    """A thin ring of cortex, 36 mm wide, around marrow, through all slices."""

    def __init__(self, spacing: tuple[float, float, float] = SPACING, marrow: float = 95.0, deviation: float = 25.0) -> None:
        self.spacing = spacing
        y, x = np.indices((SIZE, SIZE)) - SIZE // 2
        radius = np.hypot(y * spacing[1], x * spacing[2])
        ring = (radius >= 17) & (radius < 17 + max(2.5, 1.42 * spacing[1]))
        noise = np.random.default_rng(3).normal(marrow, deviation, (SLICES, SIZE, SIZE))
        self.inside = np.broadcast_to(radius < 17, noise.shape)
        self.bone = np.broadcast_to(ring, noise.shape).copy()
        self.hu = np.where(self.inside, noise, SOFT).astype(np.float32)
        self.angle = np.degrees(np.arctan2(y, x))

    def open(self, millimetres: float) -> Vertebra:
        """Take a piece out of the ring."""
        self.bone &= np.abs(self.angle) > np.degrees(millimetres / 2 / 18)
        return self

    def filled(self) -> np.ndarray:
        """Share of the marrow that is found, in each slice."""
        found = _cut_marrow(np.where(self.bone, CORTEX, self.hu), self.bone, self.spacing)
        assert not (found & ~self.inside & ~self.bone).sum() > 0.05 * self.inside.sum(), "nothing grows out of the gap"
        return (found & self.inside).sum(axis=(1, 2)) / self.inside.sum(axis=(1, 2))


def near(spacing: tuple[float, float, float] = SPACING) -> np.ndarray:
    count = int(CUT / spacing[0])
    return np.array([k < count or k >= SLICES - count for k in range(SLICES)])


@pytest.mark.parametrize("spacing", [SPACING, (3.0, 3.0, 3.0), (5.0, 1.4, 1.4)], ids=str)
@pytest.mark.parametrize("gap", [2.0, 4.0])
def test_marrow_behind_a_gap_is_filled_near_the_ends_and_nowhere_else(spacing: tuple[float, float, float], gap: float) -> None:
    filled = Vertebra(spacing).open(gap).filled()
    assert (filled[near(spacing)] > 0.9).all(), filled
    assert (filled[~near(spacing)] == 0).all(), "elsewhere the endplates close it"


def test_an_image_of_few_slices_is_all_end() -> None:
    vertebra = Vertebra().open(5.0)
    vertebra.bone, vertebra.hu, vertebra.inside = vertebra.bone[:3], vertebra.hu[:3], vertebra.inside[:3]
    assert (vertebra.filled() > 0.9).all()


@pytest.mark.parametrize(
    ("vertebra", "why"),
    [
        (Vertebra(marrow=35, deviation=10).open(5.0), "brain and cord are even"),
        (Vertebra().open(40.0), "a bay is not enclosed"),
    ],
    ids=["cord", "bay"],
)
def test_what_is_no_marrow_stays_open(vertebra: Vertebra, why: str) -> None:
    assert (vertebra.filled() == 0).all(), why


def test_muscle_between_two_bones_stays_muscle() -> None:
    bone = np.zeros((3, SIZE, SIZE), dtype=bool)
    bone[:, 15:45, 20:22] = bone[:, 15:45, 29:31] = True  # two plates, 14 mm apart
    hu = np.random.default_rng(5).normal(55, 40, bone.shape).astype(np.float32)
    assert not _cut_marrow(np.where(bone, CORTEX, hu), bone, SPACING).any()


def test_no_bone_no_marrow() -> None:
    bone = np.zeros((4, 10, 12), dtype=bool)
    assert not _cut_marrow(np.zeros(bone.shape, dtype=np.float32), bone, SPACING).any()


@pytest.mark.parametrize(
    ("level", "is_marrow"), [(90.0, True), (-60.0, True), (30.0, False)], ids=["red marrow", "yellow marrow", "spinal cord"]
)
def test_what_a_closed_ring_holds(level: float, is_marrow: bool) -> None:
    z, y, x = np.indices((9, 30, 30))
    radius = np.hypot(y - 15, x - 15) * 2.0
    bone = (radius >= 9) & (radius < 13) & (z >= 0)
    result = _marrow(np.where(bone, CORTEX, level).astype(np.float32), bone, (3.0, 2.0, 2.0))
    assert (result & (radius < 9)).any() == is_marrow
    assert (result & bone).sum() == bone.sum()
    assert not (result & (radius >= 13)).any()
