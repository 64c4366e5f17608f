"""Checks of the MONAI Label API: images, labels, and what is kept with them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

from delineate.testing.conformance.checks import Checks
from delineate.testing.conformance.monai_label_plain import (
    NUMBER,
    OBJECT,
    TEXT,
    VOXELS,
    WHOLE,
    expect_file,
    expect_members,
    expect_refused,
    form,
    mask,
    new_name,
    read_json,
    require_datastore,
    stored_image,
)
from delineate.testing.conformance.plain import Server, expect, image


def _save(server: Server, name: str, tag: str | None = None, params: Any = None, data: bytes = b"", filename: str = "l.nii.gz") -> Any:
    query = {"image": name} if tag is None else {"image": name, "tag": tag}
    return server.request("PUT", "/datastore/label", query, form(data or mask(), "label", params, filename))


def _objects(server: Server) -> dict[str, Any]:
    index = read_json(server.request("GET", "/datastore/", {"output": "all"}), "output=all")
    expect_members(index, "output=all", {"objects": OBJECT}, {"name": TEXT, "description": TEXT, "images_dir": TEXT, "labels_dir": TEXT})
    return dict(index["objects"])


class DatastoreChecks(Checks):
    """What is there is found again."""

    def test_datastore_counts(self, server: Server) -> None:
        """By default, and as ``stats``."""
        with stored_image(server) as name:
            before = read_json(server.request("GET", "/datastore/"), "the datastore")
            expect_members(before, "the datastore", {"total": WHOLE, "completed": WHOLE, "label_tags": OBJECT})
            read_json(_save(server, name), "a label")
            after = read_json(server.request("GET", "/datastore/", {"output": "stats"}), "output=stats")
            expect(after["label_tags"].get("final", 0) >= 1 and after["total"] >= 1, f"a label was saved, and the counts are {after}")

    def test_datastore_in_an_unknown_form(self, server: Server) -> None:
        """An output that is none."""
        require_datastore(server)
        expect_refused(server.request("GET", "/datastore/", {"output": "zzz"}), (422,), "output=zzz")

    def test_image(self, server: Server) -> None:
        """Added, listed, fetched, removed, gone."""
        with stored_image(server) as name:
            objects = _objects(server)
            expect(name in objects, "output=all has not the image")
            listed = objects[name]
            expect_members(listed, "the image in output=all", {"image": OBJECT, "labels": OBJECT})
            expect_members(listed["image"], "the image in output=all", {"info": OBJECT, "ext": TEXT})
            expect_members(listed["image"]["info"], "its info", {"name": TEXT, "ts": NUMBER})
            got = expect_file(server.request("GET", "/datastore/image", {"image": name}), "an image")
            expect(got == image(), "an image did not come back as it was sent")
            expect(server.request("HEAD", "/datastore/image", {"image": name}).status_code == 200, "HEAD does not find an image")
            gone = read_json(server.request("DELETE", "/datastore/", {"id": name}), "a removal")
            expect(gone == {}, f"a removal was answered with {gone}")
            expect_refused(server.request("GET", "/datastore/image", {"image": name}), (404,), "an image that was removed")
            expect(server.request("HEAD", "/datastore/image", {"image": name}).status_code == 404, "HEAD finds what was removed")

    def test_image_at_its_other_address(self, server: Server) -> None:
        """``/datastore/image`` takes and removes as ``/datastore/`` does."""
        require_datastore(server)
        name = new_name()
        saved = read_json(server.request("PUT", "/datastore/image", {"image": name}, form(image(), "file")), "an upload")
        expect(saved == {"image": name}, f"an upload was answered with {saved}")
        expect(read_json(server.request("DELETE", "/datastore/image", {"id": name}), "a removal") == {}, "a removal is not {}")

    def test_image_without_an_id_gets_its_file_name(self, server: Server) -> None:
        """Its base, without the folders that some clients send."""
        require_datastore(server)
        for query in ({"image": ""}, {}):
            name = new_name()
            files = form(image(), "file", filename=f"{name}.nii.gz")
            saved = read_json(server.request("PUT", "/datastore/", query, files), "an upload without an id")
            server.request("DELETE", "/datastore/", {"id": str(saved.get("image"))})
            expect(saved == {"image": name}, f"{name}.nii.gz without an id became {saved}")

    def test_image_without_a_file(self, server: Server) -> None:
        """Nothing to keep."""
        require_datastore(server)
        answer = server.request("PUT", "/datastore/", {"image": new_name()}, {"params": (None, "{}")})
        expect_refused(answer, (422,), "an upload without a file")

    def test_image_info(self, server: Server) -> None:
        """What was sent with it is kept, and can be added to."""
        require_datastore(server)
        name = new_name()
        read_json(server.request("PUT", "/datastore/", {"image": name}, form(image(), "file", {"patient": "p"})), "an upload")
        try:
            read_json(server.request("PUT", "/datastore/image/info", {"image": name}, data={"info": '{"note": "n"}'}), "more info")
            info = read_json(server.request("GET", "/datastore/image/info", {"image": name}), "info of an image")
            expect(info.get("patient") == "p" and info.get("note") == "n", f"info of an image lacks what was sent: {info}")
        finally:
            server.request("DELETE", "/datastore/", {"id": name})

    def test_label(self, server: Server) -> None:
        """Saved, listed, fetched, removed."""
        params = {"label_info": [{"name": "a", "idx": 1}], "client_id": "conformance"}
        with stored_image(server) as name:
            saved = read_json(_save(server, name, "original", params), "a label")
            expect(saved == {"image": name, "label": name}, f"a label was answered with {saved}")
            query = {"label": name, "tag": "original"}
            expect(expect_file(server.request("GET", "/datastore/label", query), "a label") == mask(), "a label came back as another")
            head = server.request("HEAD", "/datastore/label", {"image": name, "tag": "original"})
            expect(head.status_code == 200, "HEAD by image does not find a label")
            listed = _objects(server)[name]["labels"]["original"]
            expect_members(listed, "a label in output=all", {"info": OBJECT, "ext": TEXT})
            expect_members(listed["info"], "its info", {"name": TEXT, "label_info": list, "client_id": TEXT})
            gone = read_json(server.request("DELETE", "/datastore/label", {"id": name, "tag": "original"}), "a removal")
            expect(gone == {}, f"a removal was answered with {gone}")
            expect_refused(server.request("GET", "/datastore/label", query), (404,), "a label that was removed")

    def test_label_without_a_tag_is_final(self, server: Server) -> None:
        """Missing or empty."""
        for tag in (None, ""):
            with stored_image(server) as name:
                read_json(_save(server, name, tag), "a label")
                expect(list(_objects(server)[name]["labels"]) == ["final"], f"a label with the tag {tag!r} is not final")

    def test_label_that_is_a_bare_array(self, server: Server) -> None:
        """As viewers in browsers send it."""
        with stored_image(server) as name:
            params = {"label_info": [{"name": "a", "idx": 1}]}
            read_json(_save(server, name, "final", params, bytes(VOXELS), "label.bin"), "a label.bin")

    def test_label_without_a_file_or_an_image(self, server: Server) -> None:
        """Nothing to keep, or nowhere."""
        with stored_image(server) as name:
            answer = server.request("PUT", "/datastore/label", {"image": name}, {"params": (None, "{}")})
            expect_refused(answer, (422,), "a label without a file")
        expect_refused(server.request("PUT", "/datastore/label", files=form(mask(), "label")), (422,), "a label without an image")

    def test_label_info_of_a_reviewer(self, server: Server) -> None:
        """``params`` in a form without files, and ``info`` at its own address."""
        meta = {"status": "approved", "level": "easy", "approvedBy": "r", "editTime": 1, "comment": "c"}
        with stored_image(server) as name:
            read_json(_save(server, name), "a label")
            query = {"label": name, "tag": "final"}
            body = {"params": json.dumps({"segmentationMeta": meta})}
            read_json(server.request("PUT", "/datastore/updatelabelinfo", query, data=body), "a review")
            read_json(server.request("PUT", "/datastore/label/info", query, data={"info": '{"note": "n"}'}), "more info")
            info = read_json(server.request("GET", "/datastore/label/info", query), "info of a label")
            expect(info.get("segmentationMeta") == meta and info.get("note") == "n", f"info of a label lacks what was sent: {info}")
            expect(_objects(server)[name]["labels"]["final"]["info"].get("segmentationMeta") == meta, "output=all lacks the review")

    def test_pairs_to_train_with(self, server: Server) -> None:
        """Images and their final labels."""
        with stored_image(server) as name:
            read_json(_save(server, name), "a label")
            pairs = read_json(server.request("GET", "/datastore/", {"output": "train"}), "output=train")
            expect(isinstance(pairs, list) and pairs, "output=train is no list of what there is")
            for pair in pairs:
                expect_members(pair, "a pair", {"image": TEXT, "label": TEXT})

    def test_dataset(self, server: Server) -> None:
        """A zip of them."""
        with stored_image(server) as name:
            read_json(_save(server, name), "a label")
            answer = server.request("GET", "/datastore/dataset", {"limit_cases": "1"})
            with zipfile.ZipFile(io.BytesIO(expect_file(answer, "the dataset"))) as archive:
                expect(archive.testzip() is None and len(archive.namelist()) >= 2, "the dataset has no image with its label")


class StrictDatastoreChecks(Checks):
    """Nothing is lost, nothing taken that is no image, nothing written elsewhere."""

    def test_image_keeps_dots_in_its_name(self, server: Server) -> None:
        """Two images do not become one."""
        require_datastore(server)
        name = new_name() + ".1"
        saved = read_json(server.request("PUT", "/datastore/", files=form(image(), "file", filename=f"{name}.nii.gz")), "an upload")
        server.request("DELETE", "/datastore/", {"id": str(saved.get("image"))})
        expect(saved == {"image": name}, f"{name}.nii.gz without an id became {saved}")

    def test_image_sent_again_keeps_its_labels(self, server: Server) -> None:
        """A new version of it."""
        with stored_image(server) as name:
            read_json(_save(server, name), "a label")
            read_json(server.request("PUT", "/datastore/", {"image": name}, form(image(), "file")), "a second upload")
            expect(_objects(server)[name]["labels"], "an image that was sent again lost its labels")

    def test_image_that_is_none(self, server: Server) -> None:
        """422 with the reason."""
        require_datastore(server)
        for filename in ("x.nii.gz", "x.txt"):
            name = new_name()
            answer = server.request("PUT", "/datastore/", {"image": name}, form(b"not an image" * 50, "file", filename=filename))
            if answer.is_success:
                server.request("DELETE", "/datastore/", {"id": name})
            expect_refused(answer, (422,), f"{filename} that is no image")

    def test_image_outside_of_the_store(self, server: Server) -> None:
        """Ids and file names that lead out: a server that takes them has a file beside its folder until it is removed."""
        require_datastore(server)
        outside = f"../{new_name()}"
        for query, filename in (({"image": outside}, "x.nii.gz"), ({}, f"{outside}.nii.gz"), ({"image": new_name()}, f"{outside}.nii.gz")):
            answer = server.request("PUT", "/datastore/", query, form(image(), "file", filename=filename))
            if answer.is_success:
                server.request("DELETE", "/datastore/", {"id": answer.json().get("image", "")})
            expect_refused(answer, (422,), f"an image {query.get('image', '')!r} in a file {filename!r}")
        for method in ("GET", "HEAD"):
            status = server.request(method, "/datastore/image", {"image": "../../etc/passwd"}).status_code
            expect(status in (404, 422), f"{method} of ../../etc/passwd was answered with {status}")

    def test_checksum(self, server: Server) -> None:
        """One that matches is found to match."""
        with stored_image(server) as name:
            for text in ("SHA256:" + hashlib.sha256(image()).hexdigest(), hashlib.sha256(image()).hexdigest()):
                found = server.request("HEAD", "/datastore/image", {"image": name, "check_sum": text}).status_code
                expect(found == 200, f"the right checksum was answered with {found}")
            other = server.request("HEAD", "/datastore/image", {"image": name, "check_sum": "SHA256:" + "0" * 64}).status_code
            expect(other == 404, f"a wrong checksum was answered with {other}")

    def test_label_of_an_unknown_image(self, server: Server) -> None:
        """404 with the reason."""
        require_datastore(server)
        expect_refused(_save(server, new_name()), (404,), "a label of an unknown image")

    def test_label_outside_of_the_store(self, server: Server) -> None:
        """A tag with separators."""
        with stored_image(server) as name:
            for tag in ("../x", "a/b", "a\\b", ".."):
                expect_refused(_save(server, name, tag), (422,), f"the tag {tag!r}")

    def test_label_that_is_none(self, server: Server) -> None:
        """422 with the reason."""
        with stored_image(server) as name:
            expect_refused(_save(server, name, data=b"not a label" * 50), (422,), "a label that is none")
            expect_refused(_save(server, name, data=bytes(VOXELS - 1), filename="label.bin"), (409, 422), "a label.bin of another length")

    def test_label_on_another_grid(self, server: Server) -> None:
        """409."""
        with stored_image(server) as name:
            expect_refused(_save(server, name, data=mask((3, 4, 5))), (409,), "a label on another grid")

    def test_parameters_that_are_none(self, server: Server) -> None:
        """422, and nothing is kept."""
        with stored_image(server) as name:
            for params in ("{bad", "[1]"):
                other = new_name()
                expect_refused(server.request("PUT", "/datastore/", {"image": other}, form(image(), "file", params)), (422,), params)
                expect_refused(_save(server, name, params=params), (422,), f"params {params} of a label")
                expect(other not in _objects(server), "an image with bad params was kept")
            expect(not _objects(server)[name]["labels"], "a label with bad params was kept")

    def test_unknown_things_have_no_info(self, server: Server) -> None:
        """404, to read and to add to."""
        require_datastore(server)
        name = new_name()
        expect_refused(server.request("PUT", "/datastore/image/info", {"image": name}, data={"info": "{}"}), (404,), "info of no image")
        query = {"label": name, "tag": "final"}
        expect_refused(server.request("PUT", "/datastore/label/info", query, data={"info": "{}"}), (404,), "info of no label")
        expect_refused(server.request("DELETE", "/datastore/", {"id": name}), (404,), "the removal of no image")
