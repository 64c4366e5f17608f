"""Couch, boards and covers against the skin, on slices drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from delineate.models.couch import without_layers

SPACING = (3.0, 2.0, 2.0)
SHAPE = (2, 60, 80)
AIR, FOAM, FAT, TISSUE, BOARD = -1000, -350, -90, 40, 120
BACK = 40  # first row behind the body


def scene() -> np.ndarray:
    """A body, 60 mm deep and 120 mm wide, with its skin at row 39."""
    hu = np.full(SHAPE, AIR, dtype=np.int16)
    hu[:, 10:BACK, 10:70] = TISSUE
    return hu


def behind(hu: np.ndarray, slit: int, board: int, columns: slice = slice(15, 65), light: int = FOAM) -> np.ndarray:
    """Rows of something light behind the body and a board behind these; returns the board."""
    hu[:, BACK : BACK + slit, columns] = light
    hu[:, BACK + slit : BACK + slit + board, columns] = BOARD
    mask = np.zeros(hu.shape, dtype=bool)
    mask[:, BACK + slit : BACK + slit + board, columns] = True
    return mask


def found(hu: np.ndarray) -> np.ndarray:
    """What is left of everything that is no air."""
    body = hu > -900
    before = body.copy()
    result = without_layers(body, hu, SPACING)
    np.testing.assert_array_equal(body, before, err_msg="the body that was given is left alone")
    return result


@pytest.mark.parametrize("turns", range(4))
def test_a_board_behind_a_slit_goes_and_the_skin_stays_wherever_the_couch_is(turns: int) -> None:
    hu = scene()
    body = hu == TISSUE
    board = behind(hu, slit=1, board=2)
    result = np.rot90(found(np.ascontiguousarray(np.rot90(hu, turns, (1, 2)))), -turns, (1, 2))
    assert not (result & board).any()
    assert (result & body).sum() == body.sum()
    light = result & ~body
    assert not light[:, BACK + 1 :].any(), "of the slit at most the voxels that share skin and air are left"


def test_each_slice_is_looked_at_by_itself() -> None:
    hu = scene()
    board = behind(hu, slit=1, board=2)
    hu[1] = scene()[1]
    board[1] = False
    result = found(hu)
    assert not (result & board).any()
    np.testing.assert_array_equal(result[1], hu[1] == TISSUE)


def test_a_slit_narrower_than_a_voxel_parts_too() -> None:
    hu = scene()
    board = behind(hu, slit=1, board=2, light=-210)  # as dark as fat, mixed with a little air
    assert not (found(hu) & board).any()


@pytest.mark.parametrize(
    ("slit", "board", "columns"),
    [(1, 2, slice(30, 45)), (1, 8, slice(15, 65)), (10, 2, slice(15, 65))],
    ids=["a skin fold is short", "a wall of the abdomen is thick", "a lung is wide"],
)
def test_what_is_no_couch_stays(slit: int, board: int, columns: slice) -> None:
    hu = scene()
    kept = behind(hu, slit, board, columns, light=-700)
    assert (found(hu) & kept).sum() == kept.sum()


def test_fat_under_the_skin_is_no_slit() -> None:
    hu = scene()
    kept = behind(hu, slit=4, board=1, light=FAT)
    assert (found(hu) & kept).sum() == kept.sum()


def test_the_ends_of_a_layer_go_with_it() -> None:
    hu = scene()
    board = behind(hu, slit=1, board=2)
    hu[:, BACK + 1 : BACK + 3, 65:75] = BOARD  # goes on beyond the body, where no slit is
    result = found(hu)
    assert not result[:, BACK + 1 :, :].any(), np.argwhere(result & board)[:3]


def test_of_foam_at_the_skin_one_voxel_is_left() -> None:
    hu = scene()
    hu[:, BACK : BACK + 2, 10:70] = FOAM
    result = found(hu)
    assert result[:, BACK, 12:68].all(), "it may hold skin"
    assert not result[:, BACK + 1].any()


def test_nothing_beside_the_body_changes_nothing() -> None:
    hu = scene()
    np.testing.assert_array_equal(found(hu), hu == TISSUE)
    empty = np.full(SHAPE, AIR, dtype=np.int16)
    assert not found(empty).any()
