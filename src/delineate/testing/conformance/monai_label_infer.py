"""Checks of the MONAI Label API: inference, on images of every origin, and sessions."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx

from delineate.testing.conformance.checks import Checks
from delineate.testing.conformance.monai_label_plain import (
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    VOXELS,
    expect_file,
    expect_members,
    expect_refused,
    form,
    mask,
    new_name,
    parts_of,
    picture,
    read_json,
    session,
    stored_image,
)
from delineate.testing.conformance.plain import NotAnnouncedError, Server, expect, fail, image

_SESSION: Final[dict[str, Any]] = {
    "name": TEXT, "path": TEXT, "image": TEXT, "meta": OBJECT, "create_ts": NUMBER, "last_access_ts": NUMBER, "expiry": NUMBER,
}  # fmt: skip


class InferChecks(Checks):
    """What comes back."""

    def _infer(self, server: Server, query: dict[str, str], files: Any = None, **body: Any) -> httpx.Response:
        return server.request("POST", f"/infer/{server.model}", query, files, **body)

    def _answered(self, answer: httpx.Response) -> tuple[dict[str, Any], list[str], bytes]:
        """Parameters, the header lines of the file, the file."""
        expect(answer.status_code == 200, f"an infer was answered with {answer.status_code}: {answer.text[:200]}")
        parts = parts_of(answer)
        expect(len(parts) == 2, f"an infer was answered with {len(parts)} parts, not two")
        (first, params), (second, file) = parts
        expect('name="params"' in first[0] and 'name="image"' in second[0], "the parts of an infer are not params, then image")
        value = json.loads(params)
        expect(isinstance(value, dict), "params of an infer is no object")
        return value, second, file

    def test_infer_by_id(self, server: Server) -> None:
        """An image of the datastore: parameters and a mask with the image's extension."""
        with stored_image(server) as name:
            _, head, file = self._answered(self._infer(server, {"image": name}, {"params": (None, "{}")}))
        expect('.nii.gz"' in head[0] and file[:2] == b"\x1f\x8b", "the mask of a .nii.gz is none")

    def test_infer_answer_is_laid_out_as_old_clients_search_it(self, server: Server) -> None:
        """``Content-Type`` the last header of a part, the file's name quoted."""
        with stored_image(server) as name:
            answer = self._infer(server, {"image": name}, {"params": (None, "{}")})
        for lines, _ in parts_of(answer):
            expect(lines[-1].lower().startswith("content-type:"), f"the last header of a part is {lines[-1]!r}, not Content-Type")
            expect(lines[0].lower().startswith("content-disposition: form-data;"), f"the first header of a part is {lines[0]!r}")
        _, head, _ = self._answered(answer)
        expect('filename="' in head[0], f"the file's name is not quoted: {head[0]!r}")

    def test_infer_names_its_labels(self, server: Server) -> None:
        """``label_names``: name → number."""
        with stored_image(server) as name:
            params, _, _ = self._answered(self._infer(server, {"image": name}, {"params": (None, "{}")}))
        labels: Any = params.get("label_names")
        expect(isinstance(labels, dict) and labels, f"label_names of an infer is {labels!r}")
        expect(all(isinstance(number, int) for number in labels.values()), f"label_names is not name → number: {labels!r}")

    def test_infer_of_a_file_that_comes_along(self, server: Server) -> None:
        """An image that the server has not."""
        self._answered(self._infer(server, {"image": ""}, form(image(), "file")))

    def test_infer_on_a_session(self, server: Server) -> None:
        """An image that was sent ahead."""
        with session(server) as made:
            self._answered(self._infer(server, {"image": "", "session_id": made["session_id"]}, {"params": (None, "{}")}))

    def test_infer_without_parameters(self, server: Server) -> None:
        """No body at all: the defaults hold."""
        with stored_image(server) as name:
            self._answered(self._infer(server, {"image": name}))

    def test_infer_with_encoded_parameters(self, server: Server) -> None:
        """``params`` of a form without files."""
        with stored_image(server) as name:
            answer = self._infer(server, {"image": name}, data={"params": '{"result_extension": ".nrrd"}'})
        _, head, file = self._answered(answer)
        expect(file[:4] == b"NRRD" and '.nrrd"' in head[0], "url-encoded params were not heeded")

    def test_infer_with_a_mask_or_scribbles(self, server: Server) -> None:
        """A label map that comes along; and a bare array of one, as viewers in browsers send it."""
        with stored_image(server) as name:
            self._answered(self._infer(server, {"image": name}, form(mask(), "label", filename="mask.nii.gz")))
            self._answered(self._infer(server, {"image": name}, form(bytes(VOXELS), "label", filename="label.bin")))

    def test_infer_for_slicer(self, server: Server) -> None:
        """What the plugin of 3D Slicer always sends."""
        params: dict[str, Any] = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "conformance"}
        params |= {"label_info": [{"name": "a", "idx": 1}], "reset_state": True}
        with stored_image(server) as name:
            _, head, file = self._answered(self._infer(server, {"image": name}, {"params": (None, json.dumps(params))}))
        expect(file[:4] == b"NRRD" and '.nrrd"' in head[0], "result_extension .nrrd gave another file")
        expect(b"unsigned char" in file[:1000] or b"uint8" in file[:1000], "result_dtype uint8 gave another type")

    def test_infer_for_ohif(self, server: Server) -> None:
        """``output=image``: the bare file, not compressed, not in a form."""
        params = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
        with stored_image(server) as name:
            answer = self._infer(server, {"image": name, "output": "image"}, {"params": (None, json.dumps(params))})
        expect(answer.status_code == 200, f"output=image was answered with {answer.status_code}: {answer.text[:200]}")
        expect(answer.content[:4] == b"NRRD", "output=image is no NRRD")
        expect(b"encoding: raw" in answer.content[:2000], "result_compress false gave a compressed file")
        expect(answer.content[-VOXELS:].strip(b"\0\1") == b"", "the voxels are no mask")

    def test_infer_as_json(self, server: Server) -> None:
        """``output=json``: the parameters alone."""
        with stored_image(server) as name:
            answer = self._infer(server, {"image": name, "output": "json"}, {"params": (None, "{}")})
        expect(isinstance(read_json(answer, "output=json"), dict), "output=json is no object")

    def test_infer_as_all(self, server: Server) -> None:
        """``output=all``: as without it."""
        with stored_image(server) as name:
            self._answered(self._infer(server, {"image": name, "output": "all"}, {"params": (None, "{}")}))

    def test_infer_in_an_unknown_form(self, server: Server) -> None:
        """An output that is none."""
        with stored_image(server) as name:
            expect_refused(self._infer(server, {"image": name, "output": "xyz"}), (422,), "output=xyz")

    def test_session(self, server: Server) -> None:
        """Made, looked at, fetched, removed, gone."""
        with session(server) as made:
            path = f"/session/{made['session_id']}"
            expect_members(made["session_info"], "session_info", _SESSION)
            expect_members(read_json(server.request("GET", path), "a session"), "a session", _SESSION)
            expect_members(read_json(server.request("GET", path, {"update_ts": "true"}), "a session"), "a session", _SESSION)
            expect(expect_file(server.request("GET", path, {"image": "true"}), "its image") == image(), "a session's image is another")
            expect_members(read_json(server.request("DELETE", path), "a removal"), "a session that was removed", _SESSION)
            expect_refused(server.request("GET", path), (404,), "a session that was removed")
            expect_refused(server.request("DELETE", path), (404,), "a second removal")

    def test_session_of_many_files(self, server: Server) -> None:
        """A series; and the time that it may lie unused."""
        files = [("files", (f"{number}.dcm", b"%d" % number)) for number in range(3)]
        answer = server.request("PUT", "/session/", {"expiry": "120"}, files)
        if answer.status_code == 406:
            raise NotAnnouncedError("sessions are switched off")
        made = read_json(answer, "a session of many files")
        try:
            expect_members(made["session_info"], "session_info", _SESSION)
            expect(made["session_info"]["expiry"] == 120, f"an expiry of 120 s became {made['session_info']['expiry']}")
        finally:
            server.request("DELETE", f"/session/{made['session_id']}")

    def test_session_without_files(self, server: Server) -> None:
        """Nothing to keep."""
        answer = server.request("PUT", "/session/", files={"other": (None, "1")})
        expect_refused(answer, (422, 406), "a session without files")

    def test_slides(self, server: Server) -> None:
        """In the three forms, where there is a model of pictures."""
        name = self._slide_model(server)
        wsi = json.dumps({"level": 0, "location": [0, 0], "size": [64, 48], "tile_size": [1024, 1024], "min_poly_area": 1})
        for output in ("dsa", "asap", "json"):
            files = {"wsi": (None, wsi), "file": ("picture.png", picture(), "image/png")}
            answer = server.request("POST", f"/infer/wsi_v2/{name}", {"output": output}, files)
            expect(answer.status_code == 200, f"output={output} of a slide was answered with {answer.status_code}: {answer.text[:200]}")
            getattr(self, f"_expect_{output}")(answer)

    def _slide_model(self, server: Server) -> str:
        for name, model in read_json(server.request("GET", "/info/"), "/info/")["models"].items():
            if model.get("dimension") == 2 and model.get("type") not in ("classification", "detection", "others"):
                return str(name)
        raise NotAnnouncedError("the server has no model of two dimensions")

    def _expect_dsa(self, answer: httpx.Response) -> None:
        found = json.loads(answer.content)
        expect_members(found, "DSA's JSON", {"name": TEXT, "elements": LIST, "description": TEXT})
        for element in found["elements"]:
            expect_members(element, "an element", {"type": TEXT, "points": LIST})
            expect(all(len(point) == 3 for point in element["points"]), "a point of DSA's is not x, y, z")
        last = "".join(answer.text.strip().splitlines()[-2:])  # one of them may be the closing brace alone
        expect('"description"' in last, "DSA's JSON does not end with its description")

    def _expect_asap(self, answer: httpx.Response) -> None:
        text = answer.text
        expect("<ASAP_Annotations" in text and "</ASAP_Annotations>" in text, "output=asap is no XML of ASAP's")

    def _expect_json(self, answer: httpx.Response) -> None:
        expect_members(json.loads(answer.content), "output=json of a slide", {"name": TEXT, "annotations": LIST}, {"latencies": OBJECT})


class StrictInferChecks(Checks):
    """What is refused, and with which status."""

    def _refused(self, server: Server, query: dict[str, str], statuses: tuple[int, ...], what: str, files: Any = None) -> None:
        expect_refused(server.request("POST", f"/infer/{server.model}", query, files), statuses, what)

    def test_infer_by_an_unknown_model(self, server: Server) -> None:
        """404 with the reason."""
        with stored_image(server) as name:
            expect_refused(server.request("POST", "/infer/no-such-model", {"image": name}), (404,), "an unknown model")

    def test_infer_without_an_image(self, server: Server) -> None:
        """422 with the reason."""
        self._refused(server, {"image": ""}, (422,), "an infer without an image")

    def test_infer_of_an_unknown_image(self, server: Server) -> None:
        """404 with the reason."""
        self._refused(server, {"image": new_name()}, (404,), "an unknown image")

    def test_infer_on_an_unknown_session(self, server: Server) -> None:
        """Not run on something else instead."""
        with stored_image(server) as name:
            self._refused(server, {"image": name, "session_id": "0" * 32}, (404,), "an unknown session")

    def test_infer_with_parameters_that_are_none(self, server: Server) -> None:
        """422 with the reason."""
        with stored_image(server) as name:
            for params in ("{bad", "[1]", '{"result_extension": 1}', '{"foreground": "here"}', '{"result_dtype": "uint7"}'):
                self._refused(server, {"image": name}, (422,), f"params {params}", {"params": (None, params)})

    def test_infer_with_points_outside(self, server: Server) -> None:
        """422: a click that is not on the image."""
        with stored_image(server) as name:
            self._refused(server, {"image": name}, (422,), "a point outside", {"params": (None, '{"foreground": [[99, 0, 0]]}')})

    def test_infer_of_a_file_that_is_no_image(self, server: Server) -> None:
        """422 with the reason."""
        self._refused(server, {}, (422,), "a file that is no image", form(b"not an image" * 50, "file"))

    def test_infer_outside_of_the_store(self, server: Server) -> None:
        """Paths in place of ids and names."""
        for name in ("../../etc/passwd", "/etc/passwd"):
            self._refused(server, {"image": name}, (404, 422), f"the image {name}")
        self._refused(server, {}, (422,), "a file name with ..", form(image(), "file", filename="../../x.nii.gz"))

    def test_session_outside_of_the_store(self, server: Server) -> None:
        """A file name that leads out."""
        answer = server.request("PUT", "/session/", files={"files": ("../../x.nii.gz", image())})
        if answer.is_success:
            server.request("DELETE", f"/session/{answer.json()['session_id']}")
            fail("a session's file may be named ../../x.nii.gz")
        expect_refused(answer, (422, 406), "a session's file named ../../x.nii.gz")

    def test_slides_of_an_unknown_model(self, server: Server) -> None:
        """404 with the reason."""
        answer = server.request("POST", "/infer/wsi/no-such-model", {"image": "x", "output": "dsa"}, json={"level": 0})
        expect_refused(answer, (404,), "an unknown model of slides")
