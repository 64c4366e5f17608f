"""Tasks by reference: what is taken, what is refused, what stays warm, and what a model is given."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from delineate import files, nifti
from delineate.errors import ArchiveError, InputError
from delineate.geometry import Geometry
from delineate.model import Model, ModelInput
from delineate.orientation import reorientation
from delineate.prompt import Box, Click
from delineate.protocols.archive import ArchiveReader, FileRequestWriter
from delineate.protocols.infer_result import read_infer_result
from delineate.protocols.reference import KEY, MONAI_LABEL, Place, Reference, is_reference
from delineate.runners.base import Findings, Job
from delineate.segmentation import Segmentation
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.shelf import ModelShelf
from delineate.store.tasks import TaskStore
from delineate.task import Task, TaskState
from delineate.testing.dicom import stack_of, write_series
from delineate.volume import Volume
from delineate.worker import resident
from delineate.worker.attempt import Attempt, Workplace
from delineate.worker.channel import Channel
from delineate.worker.desk import Desk
from delineate.worker.images import WarmImages
from delineate.worker.referred import place_of
from delineate.worker.warm import WarmRunners

GRID = Geometry((7, 6, 5), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.0))
VOXELS = np.arange(210, dtype=np.int16).reshape(GRID.shape)
MODEL = Model(name="m", runner="toy", prompts=("foreground",), config={"level": 100, "mode": "usual"})


class Silent(Channel):
    def __init__(self) -> None:
        super().__init__(-1, -1)
        self.events: list[Mapping[str, Any]] = []

    def _send(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)


class Shelf:
    model = MODEL

    def knows(self, name: str) -> bool:
        return True

    def find(self, name: str) -> tuple[Model, None]:
        return self.model, None


class Bench:
    """A worker in this process; `answer` is what its model does."""

    def __init__(self, folder: Path) -> None:
        self.studies = folder / "studies"
        self.studies.mkdir()
        self.database = Database(f"sqlite:///{folder / 'd.db'}", sync=False)
        self.database.migrate()
        self.blobs = BlobStore(folder / "blobs", sync=False)
        self.tasks = TaskStore(self.database, self.blobs)
        self.shelf, self.channel = Shelf(), Silent()
        self.jobs: list[Job] = []
        self.answer: Callable[[Job], Segmentation | Findings | None] = half
        self.place = Workplace(
            name="w", tasks=self.tasks, blobs=self.blobs, models=cast("ModelShelf", self.shelf), channel=self.channel,
            warm=WarmRunners(lambda *_: self, 1 << 40, lambda: 0), desk=Desk(folder / "w"),
            images=WarmImages(1 << 20, lambda: 0), roots=(self.studies,),
        )  # fmt: skip

    def segment(self, job: Job) -> Segmentation | Findings | None:
        self.jobs.append(job)
        return self.answer(job)

    def close(self) -> None:
        """Nothing to free."""

    def image(self, name: str = "ct.nii.gz", grid: Geometry = GRID) -> Path:
        path = self.studies / name
        files.write_volume(path, Volume(VOXELS.reshape(grid.shape), grid))
        return path

    def run(self, document: Reference | bytes, protocol: str = MONAI_LABEL, **prompts: Any) -> Task:
        writer = self.blobs.incoming()
        writer.write(document if isinstance(document, bytes) else document.to_bytes())
        uid = self.tasks.submit(model="m", archive=writer, owner="o", protocol=protocol, prompts=prompts).uid
        task = self.tasks.claim("w")
        assert task is not None
        Attempt(self.place, task).run()
        return self.tasks.get(uid)

    def refused(self, document: Reference | bytes, protocol: str = MONAI_LABEL, **prompts: Any) -> str:
        task = self.run(document, protocol, **prompts)
        assert task.state is TaskState.FAILED and task.failure is not None
        assert (task.failure.kind, self.jobs) == ("input", [])
        return task.failure.message


def half(job: Job) -> Segmentation:
    labels = (job.images[0].voxels >= 100).astype(np.uint8)
    return Segmentation.from_labels(labels, job.images[0].geometry, {1: "Half"})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.database.close()


def refer(*paths: Path) -> Reference:
    return Reference(tuple(place_of(path) for path in paths))


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "ct.nrrd", "ct.mha"])
def test_an_image_is_read_where_it_lies(bench: Bench, name: str) -> None:
    task = bench.run(refer(bench.image(name)))
    assert task.state is TaskState.FINISHED, task.failure
    assert np.array_equal(bench.jobs[0].images[0].voxels, VOXELS)
    assert Geometry(**task.grids[0]).matches(GRID)
    blob = task.blob("result")
    assert blob is not None
    stored = read_infer_result(bench.blobs.verified(blob.digest))
    assert stored is not None and stored.file is not None
    assert (stored.filename, stored.params) == (f"answer{name[2:]}", {"label_names": {"Half": 1}})
    answer = bench.studies.parent / f"answer{name[2:]}"
    answer.write_bytes(b"".join(stored.file))
    found = files.read_segmentation(answer)
    assert np.array_equal(found.layers[0], VOXELS >= 100)
    assert found.geometry.matches(GRID)


def test_the_second_time_it_is_warm_and_cannot_be_spoilt(bench: Bench) -> None:
    path = bench.image()
    bench.run(refer(path))
    bench.run(refer(path))
    first, second = (job.images[0].voxels for job in bench.jobs)
    assert first is second
    with pytest.raises(ValueError, match="read-only"):
        second[0, 0, 0] = 1
    key = place_of(path).key
    assert {"event": "warm", "images": [key]} in bench.channel.events


def test_a_conversion_is_warm_too(bench: Bench) -> None:
    bench.shelf.model = replace(MODEL, orientation="RAS", inputs=(ModelInput(units="HU"),))
    path = bench.image()
    for _ in range(2):
        task = bench.run(refer(path), foreground=[[1, 2, 3]])
        assert task.state is TaskState.FINISHED, task.failure
    first, second = bench.jobs
    assert first.images[0].voxels is second.images[0].voxels
    i, j, k = second.clicks[0].index
    assert second.images[0].voxels[k, j, i] == VOXELS[3, 2, 1]


def test_an_image_whose_file_is_gone_is_let_go(bench: Bench) -> None:
    first, second = bench.image("first.nii.gz"), bench.image("second.nii.gz")
    gone = place_of(first).key
    bench.run(refer(first))
    assert bench.place.images.contents() == [gone]
    first.unlink()
    bench.run(refer(second))
    assert bench.place.images.contents() == [place_of(second).key]


def test_an_image_that_was_changed_is_refused(bench: Bench) -> None:
    path = bench.image()
    reference = refer(path)
    bench.image("other.nii.gz")
    os.replace(bench.studies / "other.nii.gz", path)
    assert "changed after the task was submitted" in bench.refused(reference)
    path.unlink()
    assert "ct.nii.gz: the image cannot be read" in bench.refused(reference)


def test_any_file_of_a_folder_that_was_written_over_is_another_content(tmp_path: Path) -> None:
    """In place, as long as before and with an older time than others: neither sum nor latest time tells."""
    for name in ("1", "2", "3"):
        (tmp_path / name).write_bytes(b"before")
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    known = place_of(tmp_path)
    with (tmp_path / "2").open("r+b") as file:
        file.write(b"after ")
    os.utime(tmp_path / "2", ns=(10**17, 10**17))
    assert place_of(tmp_path).key != known.key
    os.utime(tmp_path / "2", ns=(10**18, 10**18))
    assert place_of(tmp_path) == known


def test_an_image_that_changes_while_it_is_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.image()
    reference = refer(path)
    read = files.read_volume

    def slow(name: Path) -> Volume:
        os.utime(path, ns=(1, 1))
        return read(name)

    monkeypatch.setattr(files, "read_volume", slow)
    assert "changed" in bench.refused(reference)
    assert bench.place.images.contents() == []


def test_nothing_outside_of_the_folders(bench: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret.nii.gz"
    nifti.write(secret, Volume(VOXELS, GRID))
    (bench.studies / "away").symlink_to(tmp_path)
    (tmp_path / "studies-too").mkdir()
    twin = tmp_path / "studies-too" / "x.nii.gz"
    nifti.write(twin, Volume(VOXELS, GRID))
    away = bench.studies / "away"
    for path in (secret, away, away / "secret.nii.gz", bench.studies / "..", bench.studies / ".." / "secret.nii.gz", twin):
        assert "outside of the folders" in bench.refused(refer(path))
    bench.place = replace(bench.place, roots=())
    assert "outside of the folders" in bench.refused(refer(bench.image()))


def test_a_link_of_a_file_is_followed_as_the_datastore_lists_it(bench: Bench, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.nii.gz"
    nifti.write(elsewhere, Volume(VOXELS, GRID))
    link = bench.studies / "link.nii.gz"
    link.symlink_to(elsewhere)
    assert bench.run(refer(link)).state is TaskState.FINISHED
    assert np.array_equal(bench.jobs[0].images[0].voxels, VOXELS)


@pytest.mark.parametrize("protocol", ["v1", "v2", "seed", ""])
def test_no_other_door_takes_a_reference(bench: Bench, protocol: str, tmp_path: Path) -> None:
    reference = refer(bench.image())
    assert "archive" in bench.refused(reference, protocol)
    path = tmp_path / "sent.zip"
    path.write_bytes(reference.to_bytes())
    with pytest.raises(ArchiveError):
        ArchiveReader(path).names()


def test_an_archive_is_taken_as_ever(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "request.zip"
    with FileRequestWriter(path) as writer:
        writer.add_image(Volume(VOXELS, GRID))
    task = bench.run(path.read_bytes())
    assert task.state is TaskState.FINISHED
    assert np.array_equal(bench.jobs[0].images[0].voxels, VOXELS)


@pytest.mark.parametrize(
    "document",
    [
        b'{"delineate-reference": 1}',
        b'{"delineate-reference": 2, "images": []}',
        b'{"delineate-reference": 1, "images": []}',
        b'{"delineate-reference": 1, "images": [{"path": 5}]}',
        b'{"delineate-reference": 1, "images": [{"path": "/a", "blob": "b"}]}',
        b'{"delineate-reference": 1, "images": [{}]}',
        b'{"delineate-reference": 1, "images": [{"path": "/a", "more": 1}]}',
        b'{"delineate-reference": 1, "images": "/a"',
        b'{"delineate-reference": \xff}',
    ],
)
def test_documents_that_no_server_wrote(bench: Bench, document: bytes) -> None:
    assert is_reference(document)
    assert "reference" in bench.refused(document)


def test_a_reference_says_what_it_said(bench: Bench) -> None:
    path = bench.image()
    reference = Reference((place_of(path, "CT of somebody.nii.gz"),), Place(blob="a" * 64, name="scribbles.nrrd"))
    assert Reference.from_bytes(reference.to_bytes()) == reference
    assert json.loads(reference.to_bytes())[KEY] == 1
    assert reference.key == place_of(path).key, "names do not count"
    os.utime(path, ns=(5, 5))
    assert reference.key != place_of(path).key
    with pytest.raises(InputError):
        place_of(bench.studies / "none.nii.gz")


def blob(bench: Bench, path: Path) -> str:
    writer = bench.blobs.incoming()
    writer.write(path.read_bytes())
    writer.seal()
    bench.blobs.place(writer)
    return writer.digest


@pytest.mark.parametrize("damaged", [True, False])
def test_an_uploaded_image_that_was_altered_is_not_used(bench: Bench, damaged: bool) -> None:
    """Whether or not it can still be read."""
    reference = Reference((Place(blob=blob(bench, bench.image("ct.nii")), name="x.nii"),))
    path = bench.blobs.path(reference.images[0].blob)
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:100] if damaged else content[:-1] + bytes([content[-1] ^ 1]))
    task = bench.run(reference)
    assert task.failure is not None and (task.failure.kind, bench.jobs) == ("stored", [])
    assert bench.place.images.contents() == []


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd"])
def test_an_uploaded_image_is_a_blob(bench: Bench, name: str) -> None:
    reference = Reference((Place(blob=blob(bench, bench.image(name)), name=f"../../{name}"),))
    task = bench.run(reference)
    assert task.state is TaskState.FINISHED, task.failure
    assert np.array_equal(bench.jobs[0].images[0].voxels, VOXELS)
    assert bench.place.images.contents() == [reference.key]
    assert not list(bench.place.desk.input.iterdir())


def test_a_dicom_series_is_an_image(bench: Bench) -> None:
    pytest.importorskip("pydicom")
    bench.shelf.model = replace(MODEL, inputs=(ModelInput(units="HU"),))
    stack = stack_of(VOXELS.reshape(GRID.shape).astype(np.int16), GRID)
    write_series(bench.studies / "series", stack)
    assert bench.run(refer(bench.studies / "series")).state is TaskState.FINISHED
    (image,) = bench.jobs[0].images
    assert image.geometry.matches(GRID)
    np.testing.assert_array_equal(image.voxels, stack.voxels - 1024.0)


def test_what_is_no_image(bench: Bench) -> None:
    path = bench.studies / "ct.nii.gz"
    path.write_bytes(b"no image at all")
    assert bench.refused(refer(path)).startswith("ct.nii.gz: ")
    picture = bench.studies / "x.png"
    picture.write_bytes(b"\x89PNG")
    assert "x.png" in bench.refused(refer(picture))
    empty = bench.studies / "series"
    empty.mkdir()
    assert "no DICOM image" in bench.refused(refer(empty))


def test_several_images_must_be_enough_and_of_one_grid(bench: Bench) -> None:
    first, second = bench.image(), bench.image("b.nii.gz", replace(GRID, spacing=(1.0, 2.0, 3.5)))
    assert "b.nii.gz is on another grid than ct.nii.gz" in bench.refused(refer(first, second))
    bench.shelf.model = replace(MODEL, inputs=(ModelInput(), ModelInput()))
    assert "needs 2 images and 1 came" in bench.refused(refer(first))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".bin"])
@pytest.mark.parametrize("orientation", ["as-sent", "RAS", "SPL"])
def test_scribbles_lie_on_the_image(bench: Bench, suffix: str, orientation: str) -> None:
    bench.shelf.model = replace(MODEL, orientation=orientation)
    labels = (VOXELS % 4).astype(np.uint16)
    drawn = bench.studies / f"scribbles{suffix}"
    if suffix == ".bin":
        drawn.write_bytes(labels.tobytes())
    else:
        files.write_volume(drawn, Volume(labels, GRID))
    place = Place(blob=blob(bench, drawn), name=drawn.name)
    task = bench.run(Reference((place_of(bench.image()),), place))
    assert task.state is TaskState.FINISHED, task.failure
    (job,) = bench.jobs
    assert job.label is not None
    assert np.array_equal(job.label, job.images[0].voxels % 4)


def test_scribbles_in_another_order_of_axes_are_turned(bench: Bench) -> None:
    axes = reorientation(GRID, "SRA")
    drawn = bench.studies / "scribbles.nii.gz"
    nifti.write_labels(drawn, np.ascontiguousarray(axes.apply((VOXELS % 4).astype(np.uint8))), axes.grid(GRID))
    bench.run(Reference((place_of(bench.image()),), place_of(drawn)))
    assert bench.jobs[0].label is not None
    assert np.array_equal(bench.jobs[0].label, VOXELS % 4)


def test_scribbles_of_another_grid_are_refused(bench: Bench) -> None:
    drawn = bench.studies / "scribbles.nii.gz"
    nifti.write_labels(drawn, np.zeros(GRID.shape, np.uint8), replace(GRID, origin=(0.0, 0.0, 0.0)))
    assert "scribbles.nii.gz: it is on another grid" in bench.refused(Reference((place_of(bench.image()),), place_of(drawn)))
    raw = bench.studies / "x.bin"
    raw.write_bytes(b"x" * 211)
    assert "211 bytes" in bench.refused(Reference((place_of(bench.image()),), place_of(raw)))


def test_prompts_and_defaults_of_the_model(bench: Bench) -> None:
    bench.run(refer(bench.image()), mode="other", foreground=[[1, 2, 3]], background=[[0, 0, 0]], roi=[0, 2, 0, 2, 0, 2])
    (job,) = bench.jobs
    assert (job.prompts["level"], job.prompts["mode"]) == (100, "other")
    assert job.clicks == (Click((1, 2, 3)), Click((0, 0, 0), inside=False))
    assert job.boxes == (Box((0, 0, 0), (1, 1, 1)),)


def test_wishes_and_points_that_cannot_be(bench: Bench) -> None:
    reference = refer(bench.image())
    assert "outside of the image" in bench.refused(reference, foreground=[[99, 0, 0]])
    assert "result_extension" in bench.refused(reference, result_extension=".exe")


def test_a_model_without_prompts_reads_parameters_as_it_likes(bench: Bench) -> None:
    bench.shelf.model = replace(MODEL, prompts=())
    assert bench.run(refer(bench.image()), roi="thorax").state is TaskState.FINISHED
    assert bench.jobs[0].prompts["roi"] == "thorax"


def test_findings_without_a_label_map(bench: Bench) -> None:
    bench.answer = lambda job: Findings(values={"prediction": [{"label": "normal", "score": 1.0}]})
    task = bench.run(refer(bench.image()))
    blob = task.blob("result")
    assert blob is not None
    stored = read_infer_result(bench.blobs.verified(blob.digest))
    assert stored is not None
    assert (stored.file, stored.params) == (None, {"prediction": [{"label": "normal", "score": 1.0}]})


def test_findings_as_a_file_beside_a_label_map(bench: Bench) -> None:
    def writes(job: Job) -> None:
        nifti.write_labels(job.output_folder / "a.nii.gz", np.ones(GRID.shape, np.uint8), GRID)
        (job.output_folder / "a.json").write_text('{"1": "All"}')
        (job.output_folder / "findings.json").write_text('{"volume": 7}')

    bench.answer = writes
    task = bench.run(refer(bench.image()))
    assert task.state is TaskState.FINISHED, task.failure
    blob = task.blob("result")
    assert blob is not None
    stored = read_infer_result(bench.blobs.verified(blob.digest))
    assert stored is not None
    assert stored.params == {"label_names": {"All": 1}, "volume": 7}


def test_clients_of_archives_need_a_label_map(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "request.zip"
    with FileRequestWriter(path) as writer:
        writer.add_image(Volume(VOXELS, GRID))
    bench.answer = lambda job: Findings(values={"score": 1})
    task = bench.run(path.read_bytes(), "v1")
    assert task.failure is not None
    assert (task.failure.kind, task.failure.message) == ("output", "the model gave findings and no label map")


def test_commands_get_the_file_byte_for_byte_and_only_when_they_look(bench: Bench) -> None:
    path = bench.image()
    seen: list[list[str]] = []

    def looks(job: Job) -> Segmentation:
        seen.append(sorted(os.listdir(bench.place.desk.declared)))
        assert (job.input_folder / "tmp_0000.nii.gz").read_bytes() == path.read_bytes()
        seen.append(sorted(os.listdir(job.input_folder)))
        return half(job)

    bench.answer = looks
    task = bench.run(refer(path))
    assert task.state is TaskState.FINISHED, task.failure
    assert seen == [[], ["tmp_0000.meta.json", "tmp_0000.nii.gz"]]


def test_commands_get_nifti_of_other_formats(bench: Bench) -> None:
    def looks(job: Job) -> Segmentation:
        assert np.array_equal(nifti.read(job.input_folder / "tmp_0000.nii.gz").voxels, VOXELS)
        return half(job)

    bench.answer = looks
    assert bench.run(refer(bench.image("ct.nrrd"))).state is TaskState.FINISHED


def warm(budget: int, held: Callable[[], int] = resident.now) -> WarmImages:
    return WarmImages(budget, held)


def test_the_least_recently_used_image_goes_first() -> None:
    images = warm(2 * VOXELS.nbytes)
    for name in "abac":
        if images.get((name,)) is None:
            images.keep((name,), Volume(VOXELS.copy(), GRID), GRID)
    assert images.contents() == ["a", "c"]
    assert images.size == 2 * VOXELS.nbytes


def test_an_image_larger_than_the_budget_is_used_and_not_kept() -> None:
    images = warm(VOXELS.nbytes - 1)
    assert np.array_equal(images.keep(("a",), Volume(VOXELS.copy(), GRID), GRID).volume.voxels, VOXELS)
    assert images.contents() == []


def test_what_two_images_share_counts_once() -> None:
    images = warm(VOXELS.nbytes)
    raw = images.keep(("a",), Volume(VOXELS.copy(), GRID), GRID).volume
    images.keep(("a", "LPS"), replace(raw, units="HU"), GRID)
    assert (images.size, images.contents()) == (VOXELS.nbytes, ["a"])
    assert images.get(("a",)) is not None


def test_images_make_room_for_models_but_not_those_needed_now() -> None:
    images = warm(1 << 20, lambda: 100 * len(images.contents()))
    for name in "abc":
        images.keep((name,), Volume(VOXELS.copy(), GRID), GRID)
    images.make_room(200)
    assert images.contents() == ["b", "c"]
    images.make_room(0, needed=["b"])
    assert images.contents() == ["b"]
