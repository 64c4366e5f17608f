"""Slides over real sockets and workers, as QuPath, the Digital Slide Archive and CVAT ask; and what is refused."""

from __future__ import annotations

import io
import json
import os
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from delineate.monai_label import MONAILabelClient, MONAILabelClientException
from delineate.protocols.monai_label_answers import read_infer_answer
from delineate.task import TaskState

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage")
tifffile = pytest.importorskip("tifffile")

from delineate.testing.phantoms.slides import stained_tissue, write_pyramid  # noqa: E402  # needs them

Start = Callable[..., Any]

WIDTH, HEIGHT = 900, 700
OLD = 1_700_000_000


@pytest.fixture(scope="module")
def tissue() -> Any:
    return stained_tissue(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def server(label_server_class: Start, tissue: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("slides")
    slide = folder / "studies" / "slide.tif"
    slide.parent.mkdir()
    write_pyramid(slide, tissue[0])
    os.utime(slide, (OLD, OLD))  # what was written a moment ago is not taken over yet
    server = label_server_class(folder, ("ct.nii.gz",), workers=1)
    yield server
    server.stop()


@pytest.fixture
def client(server: Any) -> MONAILabelClient:
    return MONAILabelClient(server.url)


def ask(server: Any, body: Any = None, path: str = "/infer/wsi/nuclei", **query: str) -> httpx.Response:
    answer: httpx.Response = server.http.post(path, params={"image": "slide", **query}, json=body or {}, timeout=60)
    return answer


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def hits(contours: list[Any], nuclei: list[Any]) -> int:
    """How many nuclei have the middle of an outline near their own."""
    middles = np.array([np.mean(contour, axis=0) for contour in contours])
    return sum(bool((np.hypot(*(middles - (one.x, one.y)).T) < one.short / 2).any()) for one in nuclei)


def whole(nuclei: list[Any]) -> list[Any]:
    return [n for n in nuclei if n.long < n.x < WIDTH - n.long and n.long < n.y < HEIGHT - n.long]


def test_the_client_gets_an_annotation_of_all_nuclei(client: MONAILabelClient, tissue: Any) -> None:
    nothing, found = client.wsi_infer("nuclei", "slide", {"size": [0, 0], "min_poly_area": 30}, "dsa")
    assert nothing is None
    contours = [[point[:2] for point in element["points"]] for element in found["elements"]]
    nuclei = whole(tissue[1])
    assert hits(contours, nuclei) >= 0.98 * len(nuclei)
    assert len(contours) <= 1.05 * len(tissue[1])
    element = found["elements"][0]
    assert {name: element[name] for name in ("group", "type", "closed", "lineColor", "lineWidth", "label")} == {
        "group": "Nuclei", "type": "polyline", "closed": True, "lineColor": "rgb(255,0,0)", "lineWidth": 2.0, "label": {"value": "Nuclei"}
    }  # fmt: skip
    assert element["points"][0][2] == 0
    assert element["points"][0] != element["points"][-1]
    said = json.loads(found["description"])
    assert (said["model"], said["location"], said["size"], said["count"]) == ("nuclei", [0, 0], [WIDTH, HEIGHT], len(contours))
    assert set(said["latencies"]) == {"pre", "infer", "post", "total"}


def test_the_description_is_the_last_line_but_one(server: Any) -> None:
    answer = ask(server, output="dsa")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    line = answer.text[-5000:].split("\n")[-2:][0]
    assert json.loads(json.loads(line.replace('"description": ', "")))["model"] == "nuclei"


def test_what_qupath_sends_and_reads(server: Any) -> None:
    body = {
        "level": 0, "location": [200, 100], "size": [300, 250], "tile_size": [128, 128], "min_poly_area": 30,
        "params": {"foreground": [], "background": [], "max_workers": 1},
    }  # fmt: skip
    assert server.http.head("/datastore/image", params={"image": "slide"}).status_code == 200
    answer = ask(server, body, output="asap")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/xml")
    root = ET.fromstring(answer.text)
    annotations = root.findall("./Annotations/Annotation")
    assert annotations
    for annotation in annotations:
        assert annotation.attrib["Name"] == "Nuclei"
        int(annotation.attrib["Color"].replace("#", ""), 16)
        points = np.array([(float(c.attrib["X"]), float(c.attrib["Y"])) for c in annotation.findall("./Coordinates/Coordinate")])
        x, y = points.mean(axis=0)
        assert 200 - 2 <= x <= 500 + 2
        assert 100 - 2 <= y <= 350 + 2
    about = root.find("Annotations")
    assert about is not None
    assert [about.attrib[name] for name in "XYWH"] == ["200", "100", "300", "250"]


def test_a_patch_of_a_slide_that_the_server_has_not(server: Any, tissue: Any) -> None:
    patch = png(tissue[0][100:500, 100:500])
    wsi = json.dumps({"location": [0, 0], "size": [0, 0], "tile_size": [1024, 1024], "params": {"mpp": 0.25}})
    answer = server.http.post(
        "/infer/wsi_v2/nuclei",
        params={"output": "asap"},
        files={"file": ("patch123.png", patch, "image/png")},
        data={"wsi": wsi},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    count = len(ET.fromstring(answer.text).findall("./Annotations/Annotation"))
    inside = [n for n in tissue[1] if 100 + n.long < n.x < 500 - n.long and 100 + n.long < n.y < 500 - n.long]
    assert count >= len(inside)


def test_json_is_the_answer_where_no_output_is_named(server: Any) -> None:
    plain, named = ask(server), ask(server, output="json")
    assert "content-disposition" not in plain.headers
    assert set(plain.json()) == set(named.json()) == {"name", "description", "model", "location", "size", "annotations", "latencies"}
    (part,) = plain.json()["annotations"]
    assert set(part["annotation"]) == {"location", "size", "elements", "labels"}
    assert part["annotation"]["labels"] == {"Nuclei": [255, 0, 0]}
    assert part["annotation"]["elements"][0]["label"] == "Nuclei"
    assert plain.json()["annotations"][0]["annotation"] == named.json()["annotations"][0]["annotation"]


def test_the_digital_slide_archive_asks_for_all_with_ones_below_zero(server: Any) -> None:
    body = {"level": 0, "location": [-1, -1], "size": [-1, -1], "tile_size": [1024, 1024], "params": {"wsi_tiles": []}}
    assert ask(server, body).json()["size"] == [WIDTH, HEIGHT]


def test_tiles_that_were_chosen(server: Any) -> None:
    tiles = [{"location": [0, 0], "size": [200, 200]}, {"location": [400, 300], "size": [200, 200]}]
    found = ask(server, {"params": {"wsi_tiles": tiles}}).json()
    assert (found["location"], found["size"]) == ([0, 0], [600, 500])
    for contour in found["annotations"][0]["annotation"]["elements"][0]["contours"]:
        x, y = np.mean(contour, axis=0)
        assert (x < 205 and y < 205) or (x > 395 and y > 295)


def test_a_session_goes_before_the_image(server: Any, client: MONAILabelClient, tissue: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.png"
    path.write_bytes(png(tissue[0][:300, :300]))
    session = client.create_session(str(path))["session_id"]
    _, found = client.wsi_infer("nuclei", "", {"params": {"mpp": 0.25}}, "json", session)
    assert found["size"] == [300, 300]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"location": [5000, 0], "size": [100, 100]}, "outside"),
        ({"location": [-5, 10], "size": [100, 100]}, "outside"),
        ({"location": [0, 0], "size": [-5, 10]}, "size"),
        ({"level": 7}, "level 7"),
        ({"level": -1}, "level"),
        ({"tile_size": [1, 1]}, "tile_size"),
        ({"tile_size": [1 << 30, 1 << 30]}, "tile_size"),
        ({"tile_size": [1024]}, "tile_size"),
        ({"size": [1.5, 2]}, "whole numbers"),
        ({"min_poly_area": -1}, "min_poly_area"),
        ({"level": "x"}, "level"),
        ({"params": [1]}, "params"),
        ({"params": {"min_area": "large"}}, "min_area"),
        ({"params": {"wsi_tiles": [[0, 0]]}}, "wsi_tiles"),
        ({"params": {"mpp": 5.0}}, "told apart"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(server: Any, body: Any, words: str) -> None:
    answer = ask(server, body)
    assert answer.status_code == 422, answer.text
    assert words in answer.text


def test_other_refusals(server: Any) -> None:
    assert ask(server, image="ct").status_code == 422  # a volume
    assert ask(server, image="nope").status_code == 404
    assert ask(server, path="/infer/wsi/nope").status_code == 404
    refused = ask(server, path="/infer/wsi/threshold")
    assert (refused.status_code, "slides" in refused.text) == (422, True)
    assert ask(server, output="xml").status_code == 422
    assert server.http.post("/infer/wsi/nuclei", json={}).status_code == 422
    assert (
        server.http.post(
            "/infer/wsi/nuclei", params={"image": "slide"}, content=b"[1", headers={"content-type": "application/json"}
        ).status_code
        == 422
    )
    garbage = server.http.post("/infer/wsi_v2/nuclei", files={"file": ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(500))}, data={"wsi": "{}"})
    assert garbage.status_code == 422


@pytest.mark.parametrize(("output", "start"), [("asap", b"<?xml"), ("json", b"{")])
def test_outlines_are_saved_where_that_is_wanted(server: Any, output: str, start: bytes) -> None:
    tag = f"by-{output}"
    answer = ask(server, {"params": {"save_label": True, "label_tag": tag}}, output=output)
    assert answer.status_code == 200, answer.text
    saved = server.http.get("/datastore/label", params={"label": "slide", "tag": tag})
    assert saved.content.startswith(start)
    assert saved.content == answer.content
    info = server.http.get("/datastore/label/info", params={"label": "slide", "tag": tag}).json()
    assert info["model"] == "nuclei"
    assert ask(server, {"save_label": True, "label_tag": "beside"}).status_code == 200
    assert server.http.head("/datastore/label", params={"image": "slide", "tag": "beside"}).status_code == 200


def test_outlines_that_cannot_be_saved_are_refused(server: Any, tissue: Any) -> None:
    wsi = json.dumps({"size": [0, 0], "params": {"mpp": 0.25}, "save_label": True})
    sent = {"file": ("patch.png", png(tissue[0][:200, :200]), "image/png")}
    refused = server.http.post("/infer/wsi_v2/nuclei", files=sent, data={"wsi": wsi}, timeout=60)
    assert (refused.status_code, "only the answer to an image of the datastore" in refused.text) == (422, True)


def test_an_extra_that_is_not_installed_is_named(label_server: Start, tissue: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "bare"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(
        'name = "bare"\nrunner = "python"\ndimension = 2\n[[inputs]]\nmodality = "SM"\n[[structures]]\nname = "A"\nlabel = 1\n'
        '[parameters]\nclass = "bare:Bare"\n'
    )
    (folder / "bare.py").write_text('from delineate.errors import MissingPartError\nraise MissingPartError("glass", "slides")\n')
    server = label_server(workers=1, models=(folder.parent,))
    sent = {"file": ("patch.png", png(tissue[0][:200, :200]), "image/png")}
    answer = server.http.post("/infer/wsi_v2/bare", files=sent, data={"wsi": "{}"}, timeout=60)
    assert answer.status_code == 501, answer.text
    assert answer.json()["detail"] == 'glass is not installed. Install it with: pip install "delineate[slides]"'


def test_the_reason_reaches_the_client(client: MONAILabelClient) -> None:
    with pytest.raises(MONAILabelClientException) as caught:
        client.wsi_infer("nuclei", "slide", {"location": [5000, 0], "size": [10, 10]})
    assert "outside of the slide of 900 x 700 pixels" in caught.value.msg


def test_info_says_what_viewers_ask_for(server: Any) -> None:
    model = server.http.get("/info/").json()["models"]["nuclei"]
    assert (model["type"], model["dimension"], model["pathology"], model["labels"]) == ("segmentation", 2, True, {"Nuclei": 1})
    assert "pathology" not in server.http.get("/info/").json()["models"]["threshold"]


def test_the_plain_route_gives_cvat_its_outlines(client: MONAILabelClient, tissue: Any, tmp_path: Path) -> None:
    path = tmp_path / "frame.jpg"
    Image.fromarray(tissue[0][:400, :400]).save(path, quality=95)
    image, found = client.infer("nuclei", "", {"output": "json", "mpp": 0.25}, file=str(path))
    assert image is None
    assert found["annotations"][0]["annotation"]["elements"][0]["contours"]


def test_the_plain_route_gives_cellprofiler_a_mask(server: Any, tissue: Any, tmp_path: Path) -> None:
    path = tmp_path / "frame.tiff"
    tifffile.imwrite(path, tissue[0][:400, :300])
    answer = server.http.post(
        "/infer/nuclei", files={"file": ("frame.tiff", path.read_bytes()), "params": (None, '{"mpp": 0.25}')}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    found = read_infer_answer(io.BytesIO(answer.content), answer.headers["content-type"])
    assert found.image is not None
    mask = tifffile.imread(io.BytesIO(answer.content[found.image.offset : found.image.offset + found.image.length]))
    assert (mask.shape, mask.dtype) == ((400, 300), np.uint16)
    assert mask.max() == found.params["count"] == len(found.params["annotations"][0]["annotation"]["elements"][0]["contours"])
    dark = tissue[0][:400, :300, 0] < 140
    assert (mask[dark] > 0).mean() > 0.95
    only = server.http.post(
        "/infer/nuclei?output=image",
        files={"file": ("frame.tiff", path.read_bytes()), "params": (None, '{"result_extension": ".png", "mpp": 0.25}')},
    )
    assert only.content.startswith(b"\x89PNG")


def test_a_slide_is_an_image_of_the_datastore(server: Any, tmp_path: Path) -> None:
    content = (server.studies / "slide.tif").read_bytes()
    answer = server.http.get("/datastore/image", params={"image": "slide"})
    assert answer.content == content
    assert 'filename="slide.tif"' in answer.headers["content-disposition"]
    assert server.http.get("/datastore/image", params={"image": "slide"}, headers={"range": "bytes=10-19"}).content == content[10:20]


def test_a_task_of_slides_leaves_nothing_behind(server: Any) -> None:
    assert ask(server).status_code == 200
    until(lambda: not any(task.state is TaskState.FINISHED for task in server.service.tasks.tasks(model="nuclei")))


def test_who_hangs_up_cancels_and_the_worker_goes_on(server: Any, tissue: Any) -> None:
    large = server.studies / "large.tif"
    write_pyramid(large, tissue[0], repeat=5, compression=None)
    os.utime(large, (OLD, OLD))
    until(lambda: server.http.head("/datastore/image", params={"image": "large"}).status_code == 200)

    def states() -> list[TaskState]:
        return [task.state for task in server.service.tasks.tasks(model="nuclei")]

    body = b'{"size": [0, 0], "tile_size": [256, 256]}'
    head = f"POST /infer/wsi/nuclei?image=large HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: TaskState.RUNNING in states())
    assert ask(server).status_code == 200
    until(lambda: TaskState.CANCELLED in states())
    assert TaskState.RUNNING not in states()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_qupath_asks_for_the_next_patch_of_what_is_open(client: MONAILabelClient) -> None:
    for _ in range(20):
        sample = client.next_sample("random", {"image": "slide", "image_size": [WIDTH, 300], "patch_size": [512, 512]})
        assert sample["id"] == "slide"
        x, y, width, height = sample["bbox"]
        assert (0 <= x <= WIDTH - 512, y, width, height) == (True, 0, 512, 300)
    assert client.next_sample("random", {"image": "slide", "image_size": [0, 0], "patch_size": [64, 32]})["bbox"] == [0, 0, 64, 32]


@pytest.mark.parametrize("body", [{"image": 3}, {"image": "slide", "patch_size": [0, 5]}, {"image": "slide", "image_size": "big"}])
def test_patches_that_make_no_sense(server: Any, body: Any) -> None:
    assert server.http.post("/activelearning/random", json=body).status_code == 422


def test_patches_by_a_strategy_that_is_not_there(server: Any) -> None:
    assert server.http.post("/activelearning/nope", json={"image": "slide"}).status_code == 404


def test_qupath_asks_for_the_next_slide(client: MONAILabelClient) -> None:
    found = {client.next_sample("first", {"image": "", "client_id": "q"}).get("id") for _ in range(3)}
    assert found & {"slide", "ct"}
    assert Path(client.next_sample("first", {"image": ""})["path"]).suffix in (".tif", ".gz")
