"""The fake workstation is as strict as it says, and as various."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.testing.mimhost import CHOICES, GEOMETRY, MULTIPLIERS, PATIENT, PLANTED, Host, HostImage, JavaError, Options, leaks, tilted
from delineate.testing.mimhost.voxels import Kept, UnkeptError
from delineate.testing.phantoms import chest_ct
from delineate.volume import Volume

LISTED = {
    "XMimSession": {"createLogger", "getPointFactory"},
    "XMimLogger": {"info", "error"},
    "XMimPointFactory": {"getDicomCoordSystem", "createPoint"},
    "XMimCoordSystem": set(),
    "XMimPoint": {"toNoxel"},
    "XMimNoxel": {"getCoord"},
    "XMimSpace": {"getNoxSize", "getDataDims", "getDimensionCount", "getDicomCenter", "getIop"},
    "XMimImage": {"getRawData", "getScaledData", "getNoxelSizeInMm", "getSpace", "getInfo", "getContours", "createNewContour"},
    "XMimImageInfo": {"getModality", "getCustomName", "getDicomInfo"},
    "XMimDicomInfo": {"getTags", "getValue"},
    "XMimDataArray": {"copyToNPArray"},
    "XMimContours": set(),
    "ContourIterator": set(),
    "XMimContour": {
        "getData", "getDims", "getMultiplier", "getNoxelSizeInMm", "getInfo", "redrawCompletely", "sanitize", "isEmpty", "delete",
    },
    "XMimContourData": {"copyToNPArray", "setFromNPArray"},
    "XMimContourInfo": {"getName"},
}  # fmt: skip


def turned(geometry: Geometry, codes: str) -> Geometry:
    return reorientation(geometry, codes).grid(geometry)


GRIDS = {
    "up": GEOMETRY,
    "down": turned(GEOMETRY, "LPI"),
    "flipped": turned(GEOMETRY, "RAS"),
    "swapped": turned(GEOMETRY, "SLP"),
    "oblique": tilted(GEOMETRY),
    "oblique and flipped": turned(tilted(GEOMETRY), "RPI"),
}


def some_mask(image: HostImage, seed: int = 0) -> np.ndarray:
    mask: np.ndarray = np.random.default_rng(seed).random(image.contour_geometry.shape) < 0.1
    return mask


def objects(host: Host) -> Iterator[Any]:
    """One of everything that the host hands out."""
    image = host.images[0].handle
    contour = image.createNewContour("A")
    session = host.session
    factory = session.getPointFactory()
    point = factory.createPoint(image.getSpace(), factory.getDicomCoordSystem(), [0.0, 0.0, 0.0])
    yield from (session, session.createLogger(), factory, factory.getDicomCoordSystem(), point, point.toNoxel(), image)
    yield from (image.getSpace(), image.getInfo(), image.getInfo().getDicomInfo(), image.getRawData(), image.getScaledData())
    yield from (image.getContours(), iter(image.getContours()), contour, contour.getData(), contour.getInfo())


def noxel(host: Host, image: HostImage, point: Any) -> list[float]:
    factory = host.session.getPointFactory()
    found = factory.createPoint(image.handle.getSpace(), factory.getDicomCoordSystem(), [float(v) for v in point]).toNoxel()
    return [found.getCoord(axis) for axis in range(3)]


# ------------------------------------------------------------ strict


def test_everything_has_what_is_listed_and_nothing_else() -> None:
    host = Host()
    host.image()
    seen = set()
    for thing in objects(host):
        name = type(thing).__name__
        seen.add(name)
        assert {entry for entry in dir(thing) if not entry.startswith("_")} == LISTED[name]
        with pytest.raises(AttributeError, match="the specification lists no"):
            getattr(thing, "getSomething")  # noqa: B009
        for attribute in ("note", *LISTED[name]):
            with pytest.raises(AttributeError):
                setattr(thing, attribute, 1)
    assert seen == set(LISTED)


def test_arguments_go_by_position() -> None:
    image = Host().image().handle
    with pytest.raises(TypeError):
        image.createNewContour(name="A")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        image.getRawData(1)  # type: ignore[call-arg]


def test_by_default_no_two_sizes_are_equal_and_no_two_spacings() -> None:
    image = Host().image()
    assert len(set(image.geometry.size)) == len(set(image.geometry.spacing)) == 3
    assert list(image.handle.getSpace().getDataDims()) == list(image.geometry.size)
    assert image.handle.getRawData().copyToNPArray().shape == image.geometry.shape == (11, 19, 23)
    assert image.handle.getSpace().getDimensionCount() == 3


def test_spacing_is_in_single_precision() -> None:
    image = Host().image()
    spacing = list(image.handle.getNoxelSizeInMm())
    assert spacing[0] == 1.2000000476837158 != 1.2
    contour = image.handle.createNewContour("A")
    assert list(contour.getNoxelSizeInMm()) == [float(np.float32(v)) for v in (0.6, 0.45, 3.3)]


def test_a_vector_is_no_list() -> None:
    dims = Host().image().handle.getSpace().getDataDims()
    assert (len(dims), dims[0], dims[-1], list(reversed(dims))) == (3, 23, 11, [11, 19, 23])
    assert dims != [23, 19, 11]
    with pytest.raises(TypeError):
        dims[:2]
    with pytest.raises(TypeError):
        json.dumps(dims)
    assert Host(vectors="list").image().handle.getSpace().getDataDims() == [23, 19, 11]


def test_every_copy_is_fresh() -> None:
    image = Host().image()
    image.add_contour("A", some_mask(image))
    (contour,) = list(image.handle.getContours())
    for data in (image.handle.getRawData(), image.handle.getScaledData(), contour.getData()):
        first, before = data.copyToNPArray(), data.copyToNPArray()
        first[...] = 77
        assert np.array_equal(data.copyToNPArray(), before)
        assert not np.shares_memory(first, before)
    pet = Host().image(modality="MR")  # real values are the stored ones there
    assert not np.shares_memory(pet.handle.getScaledData().copyToNPArray(), pet.volume.voxels)


def test_raw_is_stored_and_scaled_is_real() -> None:
    image = Host().image(modality="PT", dtype="uint16")
    raw, scaled = image.handle.getRawData().copyToNPArray(), image.handle.getScaledData().copyToNPArray()
    assert raw.dtype == np.uint16
    assert np.allclose(scaled, raw * 0.37)
    ct = Host().image()
    assert np.array_equal(ct.handle.getScaledData().copyToNPArray(), ct.handle.getRawData().copyToNPArray() - 1024.0)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_masks_are_numbers(dtype: str) -> None:
    image = Host(masks=dtype).image()
    mask = some_mask(image)
    image.add_contour("A", mask)
    (contour,) = list(image.handle.getContours())
    read = contour.getData().copyToNPArray()
    assert read.dtype == np.dtype(dtype)
    assert set(np.unique(read)) == {0, 1}
    assert np.array_equal(read != 0, mask)


@pytest.mark.parametrize("change", [
    lambda mask: mask.view(np.uint8), lambda mask: mask.transpose(2, 1, 0), lambda mask: mask[::2, ::2, ::2], lambda mask: mask.ravel(),
    lambda mask: mask[None], lambda mask: mask.tolist(), lambda mask: None, lambda mask: mask.astype(float),
])  # fmt: skip
def test_only_a_bool_array_of_the_exact_shape_is_set(change: Callable[[np.ndarray], object]) -> None:
    host = Host()
    image = host.image()
    contour = image.handle.createNewContour("A")
    mask = some_mask(image)
    with pytest.raises(JavaError, match=r"^java\.lang\.IllegalArgumentException: .* bool of shape \(11, 38, 46\), not"):
        contour.getData().setFromNPArray(change(mask))
    assert len(host.misuses) == 1
    assert contour.isEmpty()
    contour.getData().setFromNPArray(mask)
    assert np.array_equal(image.contour("A").mask, mask)


def test_a_deleted_contour_throws_on_every_call() -> None:
    image = Host().image()
    image.add_contour("A", some_mask(image))
    (contour,) = list(image.handle.getContours())
    again = next(iter(image.handle.getContours()))
    data, info = contour.getData(), contour.getInfo()
    again.delete()
    calls = [getattr(contour, name) for name in LISTED["XMimContour"]]
    calls += [data.copyToNPArray, lambda: data.setFromNPArray(some_mask(image)), info.getName, again.isEmpty]
    for call in calls:
        with pytest.raises(JavaError, match="deleted"):
            call()
    assert image.contours == []


def test_names_may_be_there_twice_and_must_be_text() -> None:
    host = Host()
    image = host.image()
    first, second = (image.handle.createNewContour("A") for _ in range(2))
    first.getData().setFromNPArray(some_mask(image))
    assert (first.isEmpty(), second.isEmpty()) == (False, True)
    assert image.names == ["A", "A"]
    with pytest.raises(KeyError, match="2 contours"):
        image.contour("A")
    for name in (b"A", None, "", 1):
        with pytest.raises(JavaError):
            image.handle.createNewContour(name)  # type: ignore[arg-type]


def test_two_handles_of_one_contour_are_two_objects() -> None:
    image = Host().image()
    made = image.handle.createNewContour("A")
    (found,) = list(image.handle.getContours())
    assert made is not found and made != found
    found.getData().setFromNPArray(some_mask(image))
    assert not made.isEmpty()


def test_contours_are_for_going_over_and_nothing_else() -> None:
    contours: Any = Host().image().handle.getContours()
    assert bool(contours), "an empty collection of Java is as true as a full one"
    with pytest.raises(TypeError):
        len(contours)
    with pytest.raises(TypeError):
        contours[0]


@pytest.mark.parametrize("coordinates", [(0.0, 0.0, 0.0), np.zeros(3), [0, 0, 0], [0.0, 0.0], "abc"])
def test_a_point_is_made_of_a_list_of_floats(coordinates: Any) -> None:
    host = Host()
    space = host.image().handle.getSpace()
    factory = host.session.getPointFactory()
    with pytest.raises(JavaError, match="three floats"):
        factory.createPoint(space, factory.getDicomCoordSystem(), coordinates)
    with pytest.raises(JavaError, match="a space"):
        factory.createPoint(factory, factory.getDicomCoordSystem(), [0.0, 0.0, 0.0])
    point = factory.createPoint(space, factory.getDicomCoordSystem(), [0.0, 0.0, 0.0])
    for axis in (3, -1, "x", 0.0):
        with pytest.raises(JavaError):
            point.toNoxel().getCoord(axis)


def test_the_log_takes_text() -> None:
    host = Host()
    logger = host.session.createLogger()
    logger.info("one")
    logger.error("two")
    assert host.log == [("info", "one"), ("error", "two")]
    with pytest.raises(JavaError):
        logger.info(ValueError("three"))


def test_another_thread_may_not_call_unless_it_may() -> None:
    def errors(host: Host) -> list[BaseException]:
        found: list[BaseException] = []
        image = host.image()

        def work() -> None:
            try:
                image.handle.getRawData()
            except JavaError as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return found

    assert len(errors(Host())) == 1
    assert errors(Host(one_thread=False)) == []


def test_options_that_nobody_knows_are_refused() -> None:
    with pytest.raises(TypeError):
        Host(speed="fast")
    for name in CHOICES:
        with pytest.raises(ValueError, match=f"{name} is one of"):
            Options(**{name: "other"})


# ------------------------------------------------------------ where things are


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_centre_of_a_voxel_is_its_index_and_a_half(grid: Geometry) -> None:
    host = Host()
    image = host.image(grid)
    for index in ((0, 0, 0), (3, 1, 2), np.array(grid.size) - 1):
        assert np.allclose(noxel(host, image, grid.to_world(index)), np.array(index) + 0.5, atol=1e-9)


def test_the_grids_of_this_test_differ_as_they_say() -> None:
    assert [grid.axis_codes for grid in GRIDS.values()] == ["LPS", "LPI", "RAS", "SLP", "LPS", "RPI"]
    assert np.abs(GRIDS["oblique"].matrix - np.eye(3)).max() > 0.2
    assert np.linalg.det(GRIDS["down"].matrix) == pytest.approx(-1)


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("grid", [GRIDS["up"], GRIDS["oblique and flipped"]], ids=["up", "oblique"])
def test_the_grid_of_contours(grid: Geometry, multiplier: tuple[int, int, int]) -> None:
    image = Host(multiplier=multiplier).image(grid)
    contour = image.handle.createNewContour("A")
    assert tuple(contour.getMultiplier()) == multiplier
    assert list(contour.getDims()) == [n * m for n, m in zip(grid.size, multiplier, strict=True)]
    assert image.contour("A").geometry.matches(grid.refined(multiplier))
    mask = some_mask(image)
    contour.getData().setFromNPArray(mask)
    assert np.array_equal(image.contour("A").mask, mask)


def test_images_on_different_grids() -> None:
    host = Host()
    first, second = host.image(), host.image(GRIDS["swapped"], multiplier=(1, 1, 1), modality="MR")
    assert list(first.handle.getSpace().getDataDims()) != list(second.handle.getSpace().getDataDims())
    assert noxel(host, first, (0, 0, 0)) != noxel(host, second, (0, 0, 0))
    assert not np.array_equal(first.volume.voxels.ravel(), second.volume.voxels.ravel())
    assert (first.multiplier, second.multiplier) == ((2, 2, 1), (1, 1, 1))


@pytest.mark.parametrize(("option", "method"), [("dicom_center", "getDicomCenter"), ("iop", "getIop"), ("nox_size", "getNoxSize")])
def test_what_is_unknown_has_several_meanings(option: str, method: str) -> None:
    def value(choice: str) -> tuple[float, ...]:
        image = Host(**{option: choice}).image(GRIDS["oblique and flipped"])
        return tuple(getattr(image.handle.getSpace(), method)())

    values = [value(choice) for choice in CHOICES[option]]
    assert len(set(values)) == len(values)
    assert len({len(v) for v in values if v}) <= 2


def test_a_phantom_becomes_an_image_in_its_true_place() -> None:
    phantom = chest_ct((34, 30, 22), (12.0, 12.5, 15.0))
    host = Host(multiplier=(1, 1, 1))
    image = host.image_from_volume(phantom.volume, orientation="RAI")
    assert image.geometry.axis_codes == "RAI"
    heart = phantom.segmentation.mask("Heart")
    index = np.argwhere(heart)[:, ::-1].mean(axis=0)
    place = np.array(noxel(host, image, phantom.volume.geometry.to_world(index))) - 0.5
    assert np.allclose(image.geometry.to_world(place), phantom.volume.geometry.to_world(index))
    truth = phantom.segmentation.mapped(reorientation(phantom.volume.geometry, "RAI"))
    image.add_contour("Heart", truth.mask("Heart"))
    result = image.segmentation()
    assert result.names == ["Heart"]
    assert result.geometry.matches(image.geometry)
    assert result.volume_ml("Heart") == pytest.approx(phantom.segmentation.volume_ml("Heart"))
    assert np.array_equal(image.handle.getScaledData().copyToNPArray(), image.volume.values())


def test_an_image_of_four_dimensions() -> None:
    image = Host().image(frames=3)
    space = image.handle.getSpace()
    assert (space.getDimensionCount(), list(space.getDataDims())) == (4, [23, 19, 11, 3])
    assert image.handle.getRawData().copyToNPArray().shape == (3, 11, 19, 23)


# ------------------------------------------------------------ contours while one goes over them


def names_seen(options: dict[str, str], change: Callable[[HostImage], object]) -> list[str]:
    image = Host(**options).image()
    for name in "ABC":
        image.add_contour(name)
    seen = []
    for contour in image.handle.getContours():
        if not seen:
            change(image)
        seen.append(contour.getInfo().getName())
    return seen


def test_a_live_list_shows_additions_and_a_snapshot_does_not() -> None:
    assert names_seen({"contours": "live"}, lambda image: image.handle.createNewContour("D")) == ["A", "B", "C", "D"]
    assert names_seen({"contours": "snapshot"}, lambda image: image.handle.createNewContour("D")) == ["A", "B", "C"]
    with pytest.raises(JavaError, match=r"^java\.util\.ConcurrentModificationException"):
        names_seen({"contours": "fail-fast"}, lambda image: image.handle.createNewContour("D"))
    assert names_seen({"contours": "fail-fast"}, lambda image: None) == ["A", "B", "C"]


def test_a_live_list_skips_what_follows_a_deletion_and_a_snapshot_still_has_it() -> None:
    def left(contours: str) -> list[str]:
        image = Host(contours=contours).image()
        for name in "ABCD":
            image.add_contour(name)
        for contour in image.handle.getContours():
            contour.delete()
        return image.names

    assert left("live") == ["B", "D"]
    assert left("snapshot") == []


# ------------------------------------------------------------ patient data


def test_dicom_attributes_are_those_of_java() -> None:
    info = Host().image().handle.getInfo().getDicomInfo()
    assert info is not None
    tags = list(info.getTags())
    assert {type(tag) for tag in tags} == {int}
    assert info.getValue(0x00100010) == PATIENT
    assert str(info.getValue(0x00100030)) == "Tue Mar 17 00:00:00 UTC 1942"
    assert info.getValue(0x00280030) == "1"  # the first of two
    assert info.getValue(0x00080008) == "ORIGINAL"
    assert str(info.getValue(0x00081140)).startswith("com.mimvista.")
    assert info.getValue(0x00281052) == "-1024"
    assert info.getValue(0x00990001) is None
    with pytest.raises(TypeError):
        json.dumps({str(tag): info.getValue(tag) for tag in tags})
    with pytest.raises(JavaError):
        info.getValue("00100010")


def test_dicom_attributes_of_other_kinds() -> None:
    host = Host(numbers="number")
    info = host.image().handle.getInfo().getDicomInfo()
    assert info is not None and info.getValue(0x00281053) == 1.0
    bare = host.image_from_volume(Volume(np.zeros((2, 3, 4)), Geometry((4, 3, 2))), dicom=None)
    assert bare.handle.getInfo().getDicomInfo() is None
    own = host.image_from_volume(Volume(np.zeros((2, 3, 4)), Geometry((4, 3, 2))), dicom={0x00080060: ["MR", "CT"]}, name="own")
    assert own.handle.getInfo().getDicomInfo().getValue(0x00080060) == "MR"  # type: ignore[union-attr]
    assert own.handle.getInfo().getCustomName() == "own"


def test_leaks_are_found_in_archives() -> None:
    inner = gzip.compress(b"\0" + PATIENT.upper().encode() + b"\0")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.nii.gz", inner)
        archive.writestr(f"{PLANTED[1]}.json", "{}")
        archive.writestr("y.txt", PLANTED[2].encode("utf-16-le"))
    assert leaks(packed.getvalue()) == [PATIENT, PLANTED[1], PLANTED[2]]
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        member = tarfile.TarInfo("x.nii.gz")
        member.size = len(inner)
        tar.addfile(member, io.BytesIO(inner))
    assert leaks(tarred.getvalue()) == [PATIENT]
    assert leaks(b"nothing of the kind") == []


def test_everything_planted_is_in_what_the_image_tells() -> None:
    info = Host().image().handle.getInfo()
    dicom = info.getDicomInfo()
    assert dicom is not None
    told = " ".join(str(dicom.getValue(tag)) for tag in dicom.getTags()) + info.getCustomName()
    assert leaks(told.encode()) == list(PLANTED)


# ------------------------------------------------------------ faults


def work(host: Host) -> None:
    image = host.images[0].handle
    contour = image.createNewContour("A")
    contour.getData().setFromNPArray(some_mask(host.images[0]))
    contour.redrawCompletely()
    host.session.createLogger().info("done")


CALLS = [
    "XMimImage.createNewContour", "XMimContour.getData", "XMimContourData.setFromNPArray", "XMimContour.redrawCompletely",
    "XMimSession.createLogger", "XMimLogger.info",
]  # fmt: skip


def test_calls_are_recorded_in_order() -> None:
    host = Host()
    host.image()
    work(host)
    assert host.calls == CALLS
    assert host.ledger.seconds > 0
    host.forget()
    assert (host.calls, host.log, host.ledger.seconds) == ([], [], 0.0)
    assert host.images[0].names == ["A"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("n", range(1, len(CALLS) + 1))
def test_every_call_can_throw(n: int, after: bool) -> None:
    host = Host()
    image = host.image()
    host.fail_on(n, after=after)
    with pytest.raises(JavaError, match=r"^java\.lang\.NullPointerException: ") as raised:
        work(host)
    assert leaks(str(raised.value).encode()) == [PATIENT]
    assert host.calls == CALLS[:n]
    assert len(image.contours) == (n > 1 or after)
    assert image.contours == [] or image.contours[0].count == (image.contours[0].writes > 0) * some_mask(image).sum()
    assert host.log == ([("info", "done")] if n == len(CALLS) and after else [])


def test_every_method_goes_through_the_ledger() -> None:
    host = Host()
    host.image()
    things = list(objects(host))
    host.forget()
    host.fail_on(times=-1)
    failed = set()
    for thing in things:
        for name in sorted(LISTED[type(thing).__name__]):
            with pytest.raises(JavaError, match="NullPointer"):
                getattr(thing, name)()
            failed.add(f"{type(thing).__name__}.{name}")
        if type(thing).__name__ == "XMimContours":
            with pytest.raises(JavaError, match="NullPointer"):
                iter(thing)
        if type(thing).__name__ == "ContourIterator":
            with pytest.raises(JavaError, match="NullPointer"):
                next(thing)
    assert failed == {f"{kind}.{name}" for kind, names in LISTED.items() for name in names}


def test_a_fault_on_calls_of_one_name() -> None:
    host = Host()
    image = host.image()
    host.fail_on(2, "XMimContour", times=2, error=MemoryError("no"))
    contour = image.handle.createNewContour("A")
    contour.getDims()
    for _ in range(2):
        with pytest.raises(MemoryError):
            contour.getDims()
    contour.getDims()
    host.fail_on(1, "XMimContour.delete", after=True)
    contour.isEmpty()
    with pytest.raises(JavaError, match="NullPointer"):
        contour.delete()
    assert image.contours == []
    with pytest.raises(ValueError, match="from 1"):
        host.fail_on(0)


def test_the_end_of_the_contours_can_throw_too() -> None:
    host = Host()
    image = host.image()
    image.add_contour("A")
    for after in (False, True):
        host.forget()
        host.fail_on(2, "ContourIterator.next", after=after)
        with pytest.raises(JavaError, match="NullPointer"):
            list(image.handle.getContours())
        assert host.calls[-2:] == ["ContourIterator.next"] * 2


# ------------------------------------------------------------ snapshots, voxels, memory


def test_snapshots_see_every_change() -> None:
    host = Host()
    first, second = host.image(), host.image(multiplier=(1, 1, 1))
    mask = some_mask(first)
    first.add_contour("A", mask)
    drawn = second.add_contour("B", some_mask(second))
    before = host.snapshot()
    assert before == host.snapshot()
    assert before.changes(host.snapshot()) == []

    moved = np.roll(drawn.mask, 1, axis=2)
    assert moved.sum() == drawn.count
    drawn.put(moved)
    assert before.changes(host.snapshot()) == [
        f"image 1: the contour 'B' ({drawn.count} voxels) was changed, now 'B' ({drawn.count} voxels)"
    ]
    next(iter(first.handle.getContours())).delete()
    first.add_contour("A", mask)
    changes = before.changes(host.snapshot())
    assert len(changes) == 3
    assert changes[0].endswith("was deleted") and changes[2].endswith("was added"), "the same again is another contour"
    assert [contour.name for contour in before.added(host.snapshot())] == ["A"]
    drawn.name = "C"
    assert "now 'C'" in before.changes(host.snapshot())[1]


@pytest.mark.parametrize("keep", CHOICES["keep"])
@pytest.mark.parametrize("case", ["none", "all", "one", "some", "line"])
def test_voxels_are_kept_as_told(keep: str, case: str) -> None:
    mask = np.zeros((5, 7, 9), dtype=bool)
    mask[{"none": slice(0), "all": ..., "one": (4, 6, 8), "some": (slice(1, 3), slice(2, 6, 2)), "line": (2, 3)}[case]] = True
    kept = Kept.of(mask, keep)
    assert kept.count == mask.sum()
    if keep == "all" or case == "none":
        assert np.array_equal(kept.mask(), mask)
        assert kept.mask("int8").dtype == np.int8
    else:
        with pytest.raises(UnkeptError):
            kept.mask()
    assert bool(kept.digest) == (keep != "count" and case != "none")


def test_digests_tell_masks_apart() -> None:
    shifts = itertools.product((0, 1), repeat=3)
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[1:3, 1:3, 1] = mask[1, 1, 2] = True
    digests = {Kept.of(np.roll(mask, shift, axis=(0, 1, 2)), "digest").digest for shift in shifts}
    assert len(digests) == 8
    assert Kept.of(mask, "all").digest == Kept.of(np.asfortranarray(mask), "digest").digest


def test_an_array_may_be_read_late() -> None:
    def set_and_reuse(reads: str) -> int:
        image = Host(reads=reads).image()
        contour, mask = image.handle.createNewContour("A"), some_mask(image)
        contour.getData().setFromNPArray(mask)
        contour.redrawCompletely()
        mask[...] = False
        return image.contour("A").count

    assert set_and_reuse("at-once") > 0
    assert set_and_reuse("late") == 0


def test_bytes_handed_out_are_counted() -> None:
    host = Host()
    image = host.image()
    data, size = image.handle.getRawData(), image.volume.voxels.nbytes
    first = data.copyToNPArray()
    view = first[2:]
    second = data.copyToNPArray()
    assert (host.ledger.live, host.ledger.peak, host.ledger.total) == (2 * size, 2 * size, 2 * size)
    del first, second
    assert host.ledger.live == size, "a view keeps its array"
    del view
    host.forget()
    for _ in range(3):
        data.copyToNPArray()
    assert (host.ledger.live, host.ledger.peak, host.ledger.total) == (0, size, 3 * size)


def test_many_large_contours_cost_the_host_little() -> None:
    host = Host(keep="digest", multiplier=(4, 4, 1))
    image = host.image(Geometry((128, 128, 40)))
    mask = np.zeros(image.contour_geometry.shape, dtype=bool)
    mask[5:35, 100:400, 100:400] = True
    host.forget()
    tracemalloc.start()
    try:
        for number in range(30):
            image.handle.createNewContour(str(number)).getData().setFromNPArray(mask)
        assert tracemalloc.get_traced_memory()[1] < mask.nbytes / 20
    finally:
        tracemalloc.stop()
    assert {contour.count for contour in image.contours} == {30 * 300 * 300}
