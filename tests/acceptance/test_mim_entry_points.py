"""The built zip, loaded by the workstation in both ways: every entry point against our server and a server of each dialect."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from delineate.testing.mimhost import HostFailure, HostImage, Snapshot
from delineate.testing.scripted_archives import Upload

SERVERS = ("ours", "seed", "v1", "v2")
COUNTS = (1, 2, 3, 4)
POSTS = [f"InferenceServer{count}images" for count in COUNTS]
IN_ONE_GO = ["DelineateImages", "Delineate2Images", "Delineate3Images", "Delineate4Images"]
ALL = {*POSTS, *(name + "Contours" for name in POSTS), *IN_ONE_GO, "InferenceServerGetFromUid"}


def halves(index: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """What the scripted servers answer."""
    return {"First_Half": index[:, 0] < size // 2, "Second_Half": index[:, 0] >= size // 2}


def names_in(upload: Upload) -> list[str]:
    data = upload.read()
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


@pytest.mark.parametrize("way", ["ext", "src.ext"])
def test_every_entry_point_of_the_zip_is_tested_here(make_bench: Any, way: str) -> None:
    assert {entry.method for entry in make_bench(way).runner.entries} == ALL


def require_right(before: Snapshot, after: Snapshot, image: HostImage, wanted: dict[str, np.ndarray], suffix: str = "") -> None:
    """The contours that were added are the wanted ones on that image, and nothing else was touched."""
    assert [contour.name for contour in before.added(after)] == [name + suffix for name in wanted]
    assert len(before.changes(after)) == len(wanted)
    for name, mask in wanted.items():
        assert np.count_nonzero(image.contour(name + suffix).mask != mask) == 0


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", ["ext", "src.ext"])
def test_entry_points(make_bench: Any, expected: Callable[..., np.ndarray], way: str, server: str) -> None:
    bench = make_bench(way, multiplier=(2, 3, 1))
    is_ours = server == "ours"
    url, model = (bench.ours, "which") if is_ours else (bench.scripted(dialect=server).url, "noop")
    for count in COUNTS:
        images = [bench.host.image() for _ in range(count)]
        first, voxels = images[0], [image.volume.voxels for image in images]
        if is_ours:
            wanted = {f"Image_{n}": expected(first, lambda index, _, v=v: v[tuple(index.T[::-1])] > 1500) for n, v in enumerate(voxels)}
        else:
            wanted = {name: expected(first, lambda index, _, name=name: halves(index, 23)[name]) for name in ("First_Half", "Second_Half")}
        before = bench.host.snapshot()
        uid = bench.run(POSTS[count - 1], *images, model, 0, url)
        assert bench.host.snapshot() == before
        bench.run("InferenceServerGetFromUid", f" {uid} ", first, url, 0, 30)
        require_right(before, bench.host.snapshot(), first, wanted)
        before = bench.host.snapshot()
        bench.host.log.clear()
        bench.run(IN_ONE_GO[count - 1], *images, model, url, 30)
        require_right(before, bench.host.snapshot(), first, wanted, " 2")
        assert bench.log.count("holds something and is left as it is") == len(wanted)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", ["ext", "src.ext"])
def test_entry_points_that_send_contours(make_bench: Any, way: str, server: str) -> None:
    bench = make_bench(way, multiplier=(4, 4, 1))
    for count in COUNTS:
        require_sent(bench, server, count)


def require_sent(bench: Any, server: str, count: int) -> None:
    images = [bench.host.image() for _ in range(count)]
    peer = None if server == "ours" else bench.scripted(dialect=server)
    url, model = (bench.ours, "exported") if peer is None else (peer.url, "noop")
    generator = np.random.default_rng(0)
    masks = {name: generator.random(images[0].contour_geometry.shape) < 0.2 for name in ("Heart", "Lung L", "Spine")}
    for name, mask in masks.items():
        images[0].add_contour(name, mask)
    before = bench.host.snapshot()
    uid = bench.run(POSTS[count - 1] + "Contours", *images, model, 0, 1, "Heart, Lung L", url)
    assert bench.host.snapshot() == before
    if peer is not None:
        sent = names_in(peer.uploads[0])
        assert [name for name in sent if name.endswith(".nii.gz")] == [
            *(f"tmp_{n:04d}.nii.gz" for n in range(count)), "Heart.nii.gz", "Lung L.nii.gz",
        ]  # fmt: skip
        return
    bench.run("InferenceServerGetFromUid", uid, images[0], url, 0, 30)
    assert [contour.name for contour in before.added(bench.host.snapshot())] == ["Heart 2", "Lung L 2"]
    for name in ("Heart", "Lung L"):
        assert np.count_nonzero(images[0].contour(name + " 2").mask != masks[name]) == 0


@pytest.mark.parametrize("server", SERVERS)
def test_no_contour_is_sent_when_none_is_wanted(bench: Any, server: str) -> None:
    image = bench.host.image()
    image.add_contour("Heart", np.ones(image.contour_geometry.shape, dtype=bool))
    peer = bench.scripted(dialect=server if server != "ours" else "v1")
    bench.run("InferenceServer1imagesContours", image, "noop", 0, 0, "", peer.url)
    assert set(names_in(peer.uploads[0])) == {"meta.json", "tmp_0000.nii.gz", "tmp_0000.meta.json"}


@pytest.mark.parametrize("server", SERVERS)
def test_an_unknown_model_and_an_unknown_task_are_one_sentence(bench: Any, server: str) -> None:
    image = bench.host.image()
    url = bench.ours if server == "ours" else bench.scripted(dialect=server).url
    with pytest.raises(HostFailure, match=r"no-such-model|status 422"):
        bench.run("InferenceServer1images", image, "no-such-model", 0, url)
    if server != "seed":  # which says the same of tasks that are not ready
        with pytest.raises(HostFailure, match=r"not know the task|[Nn]o such task|no task"):
            bench.run("InferenceServerGetFromUid", "u" * 43, image, url, 1, 30)
    assert [line.text for line in bench.host.log if line.level == "error"] != []


def test_a_container_registered_over_the_protocol_sees_the_files_of_the_mission(bench: Any) -> None:
    images = [bench.host.image(), bench.host.image()]
    peer = bench.scripted(dialect="seed")
    bench.run("InferenceServer2images", *images, "noop", 1, peer.url)
    with zipfile.ZipFile(io.BytesIO(peer.uploads[0].read())) as archive:
        assert set(archive.namelist()) == {
            "meta.json", *(f"tmp_000{n}.{kind}" for n in (0, 1) for kind in ("nii.gz", "meta.json", "dicom_info.json")),
        }  # fmt: skip
        meta = json.loads(archive.read("meta.json"))
        assert meta["scaling_factor"] == [2, 2, 1]
        assert meta["spacing"] == pytest.approx([1.2, 0.9, 3.3])
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
