"""A folder of DICOM slices as one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from delineate.errors import ImageError
from delineate.geometry import Geometry
from delineate.worker.series import read_series

GRID = Geometry((7, 6, 5), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.0))
VOXELS = np.arange(210, dtype=np.int16).reshape(GRID.shape) - 50
EVEN = (30.0, 33.0, 36.0, 39.0, 42.0)


def write(folder: Path, places: Sequence[float] = EVEN, series: str = "1.2.3.4") -> Path:
    """One file for each slice, named so that their order tells nothing."""
    folder.mkdir(exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, place in enumerate(places):
        image = SimpleITK.GetImageFromArray(VOXELS[number])
        image.SetSpacing((1.0, 2.0))
        tags = {
            "0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": series, "0008|0018": f"{series}.{number + 1}",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0020|0032": f"-10\\20\\{place}", "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(len(places) - number), "0018|0050": "3", "0028|1052": "-50", "0028|1053": "1",
        }  # fmt: skip
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}-{number * 7 % 5}.dcm"))
        writer.Execute(image)
    return folder


def test_slices_in_the_order_of_their_places(tmp_path: Path) -> None:
    volume = read_series(write(tmp_path / "s"))
    assert not volume.geometry.difference(GRID)
    assert np.array_equal(volume.voxels, VOXELS)
    assert (volume.modality, volume.units) == ("CT", "HU")


def test_an_archives_one_folder_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "b")
    assert read_series(tmp_path / "a").geometry.size == GRID.size


@pytest.mark.parametrize("places", [(30, 33, 36, 42, 45), (30, 33, 33, 36, 39), (30, 33, 36, 39, 42.5)])
def test_missing_doubled_and_shifted_slices(tmp_path: Path, places: tuple[float, ...]) -> None:
    with pytest.raises(ImageError, match=r"not evenly spaced|cannot be read"):
        read_series(write(tmp_path / "s", places))


def test_no_series_and_two(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(ImageError, match="no DICOM series"):
        read_series(tmp_path / "s")
    write(tmp_path / "s")
    write(tmp_path / "s", series="1.2.3.5")
    with pytest.raises(ImageError, match="2 DICOM series"):
        read_series(tmp_path / "s")


def test_one_slice_is_an_image(tmp_path: Path) -> None:
    assert read_series(write(tmp_path / "s", (30.0,))).geometry.size == (7, 6, 1)
