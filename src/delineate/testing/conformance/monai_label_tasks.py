"""Checks of the MONAI Label API: samples, and what runs for long: training, scoring, batches; models' files."""

from __future__ import annotations

import time
from typing import Any, Final

from delineate.testing.conformance.checks import Checks
from delineate.testing.conformance.monai_label_plain import (
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    expect_file,
    expect_members,
    expect_refused,
    expect_task,
    form,
    info_of,
    mask,
    new_name,
    read_json,
    require_datastore,
    stored_image,
)
from delineate.testing.conformance.plain import NotAnnouncedError, Server, expect, fail

RUNS: Final = ("/train/", "/scoring/", "/batch/infer")
MOST_IMAGES: Final = 50
ENDED: Final = ("DONE", "ERROR", "STOPPED")


class TaskChecks(Checks):
    """Shapes, and what is said where nothing runs."""

    def test_samples(self, server: Server) -> None:
        """Every strategy gives an image, or an empty object."""
        with stored_image(server):
            for number, name in enumerate(info_of(server)["strategies"]):
                body = {"client_id": f"conformance-{number}", "label_tag": "final"}
                sample = read_json(server.request("POST", f"/activelearning/{name}", json=body), f"strategy {name}")
                if sample == {}:
                    continue
                needed: dict[str, Any] = {"id": TEXT, "path": TEXT, "name": TEXT, "ts": NUMBER}
                expect_members(sample, f"the sample of {name}", needed, {"weight": NUMBER, "strategy": OBJECT, "bbox": LIST})

    def test_samples_are_marked(self, server: Server) -> None:
        """Who was handed an image, and when."""
        with stored_image(server):
            sample = read_json(server.request("POST", "/activelearning/first", json={"client_id": "conformance"}), "strategy first")
            if sample == {}:
                raise NotAnnouncedError("others have all images")
            info = read_json(server.request("GET", "/datastore/image/info", {"image": sample["id"]}), "info of the sample")
            given = info.get("strategy", {}).get("first")
            expect_members(given, "strategy.first of a sample's info", {"ts": NUMBER, "client_id": TEXT})
            expect(given["client_id"] == "conformance", f"the sample was handed to {given['client_id']}")

    def test_sample_asked_for_badly(self, server: Server) -> None:
        """422."""
        require_datastore(server)
        for body in (b"{bad", b"[1]"):
            answer = server.request("POST", "/activelearning/first", content=body, headers={"content-type": "application/json"})
            expect_refused(answer, (422,), f"a body {body.decode()}")

    def test_what_does_not_run(self, server: Server) -> None:
        """404 to those who ask for it, null to those who stop it."""
        for path in RUNS:
            running = server.request("GET", path, {"check_if_running": "true"})
            if running.status_code == 200:
                expect_task(running.json(), path)
                continue
            expect_refused(running, (404,), f"{path} with nothing that runs")
            stopped = read_json(server.request("DELETE", path), f"a stop of {path}")
            if stopped is not None:  # what ran last, where it ran once
                expect_task(stopped, f"a stop of {path}")

    def test_an_idle_training_is_stopped_with_null(self, server: Server) -> None:
        """Not an error: plugins stop before they start."""
        if server.request("GET", "/train/", {"check_if_running": "true"}).status_code == 200:
            raise NotAnnouncedError("a training runs")
        stopped = read_json(server.request("DELETE", "/train/"), "a stop")
        expect(stopped is None, f"a stop of no training was answered with {stopped}")

    def test_all_that_ran(self, server: Server) -> None:
        """A list of tasks; where nothing ever ran it may be 404."""
        for path in RUNS:
            answer = server.request("GET", path, {"all": "true"})
            if answer.status_code == 404:
                continue
            ran = read_json(answer, f"{path}?all")
            expect(isinstance(ran, list), f"{path}?all is no list")
            for task in ran:
                expect_task(task, f"a task of {path}")

    def test_scoring(self, server: Server) -> None:
        """Each method is a task that ends."""
        methods = list(info_of(server)["scoring"])
        if not methods:
            raise NotAnnouncedError("the server scores nothing")
        with stored_image(server) as name:
            for tag in ("final", "original"):
                files = form(mask(), "label", filename="l.nii.gz")
                read_json(server.request("PUT", "/datastore/label", {"image": name, "tag": tag}, files), "a label")
            for method in methods:
                self._runs(server, f"/scoring/{method}", "/scoring/")

    def test_batch(self, server: Server) -> None:
        """A task that ends; nothing is saved. Left out where it would work for long."""
        with stored_image(server) as name:
            tag = new_name()  # some servers go by it, others by the label of a person
            for one in ("final", tag):
                files = form(mask(), "label", filename="l.nii.gz")
                read_json(server.request("PUT", "/datastore/label", {"image": name, "tag": one}, files), "a label")
            if read_json(server.request("GET", "/datastore/"), "the datastore")["completed"] > MOST_IMAGES:
                raise NotAnnouncedError("the server has many labelled images")
            body = {"save_label": False, "label_tag": tag, "max_workers": 1}
            self._runs(server, f"/batch/infer/{server.model}?images=labeled", "/batch/infer", body)

    def _runs(self, server: Server, path: str, where: str, body: dict[str, Any] | None = None) -> None:
        started = server.request("POST", path, json=body or {})
        if started.status_code == 429:
            raise NotAnnouncedError(f"something else runs at {where}")
        task = read_json(started, f"a start of {path}")
        expect_task(task, f"a start of {path}")
        end = time.monotonic() + server.patience
        while time.monotonic() < end:
            now = read_json(server.request("GET", where), where)
            expect_task(now, where)
            if now["status"] in ENDED:
                expect(now["id"] == task["id"] and now.get("details"), f"the task of {path} ended without details, or is another")
                expect(now["status"] == "DONE", f"{path} ended with {now['status']}: {now['details']}")
                expect("end_ts" in now, f"the task of {path} has no end_ts")
                return
            time.sleep(0.05)
        fail(f"{path} did not end within {server.patience:g} s")

    def test_batch_of_unknown_images(self, server: Server) -> None:
        """A kind that is none."""
        require_datastore(server)
        answer = server.request("POST", f"/batch/infer/{server.model}", {"images": "zzz"}, json={})
        expect_refused(answer, (422,), "a batch of images=zzz")

    def test_weights(self, server: Server) -> None:
        """Of each model: a file and what is known of it, or 404."""
        for name in info_of(server)["models"]:
            about = server.request("GET", f"/model/info/{name}")
            if about.status_code == 404:
                expect_refused(server.request("GET", f"/model/{name}"), (404,), f"the weights of {name}")
                continue
            known: dict[str, Any] = {"checksum": TEXT, "modified_time": NUMBER}
            expect_members(read_json(about, f"/model/info/{name}"), f"/model/info/{name}", known)
            expect(expect_file(server.request("GET", f"/model/{name}"), f"the weights of {name}"), f"the weights of {name} are empty")

    def test_weights_of_an_unknown_model(self, server: Server) -> None:
        """404."""
        for path in ("/model/no-such-model", "/model/info/no-such-model"):
            expect_refused(server.request("GET", path), (404,), path)


class StrictTaskChecks(Checks):
    """What is unknown is not started; two people never get one image."""

    def test_sample_of_an_unknown_strategy(self, server: Server) -> None:
        """404."""
        require_datastore(server)
        expect_refused(server.request("POST", "/activelearning/no-such-strategy", json={}), (404,), "an unknown strategy")

    def test_training_of_an_unknown_model(self, server: Server) -> None:
        """404, and nothing runs."""
        expect_refused(server.request("POST", "/train/no-such-trainer", json={}), (404,), "an unknown trainer")

    def test_scoring_by_an_unknown_method(self, server: Server) -> None:
        """404."""
        expect_refused(server.request("POST", "/scoring/no-such-method", json={}), (404,), "an unknown method of scoring")

    def test_batch_of_an_unknown_model(self, server: Server) -> None:
        """404."""
        require_datastore(server)
        expect_refused(server.request("POST", "/batch/infer/no-such-model", json={}), (404,), "a batch of an unknown model")

    def test_samples_go_to_one_annotator_each(self, server: Server) -> None:
        """While one has an image, another is handed another one, or nothing."""
        with stored_image(server), stored_image(server):
            had = []
            for number in range(2):
                body = {"client_id": f"conformance-lease-{number}"}
                for name in ("first", "random"):
                    sample = read_json(server.request("POST", f"/activelearning/{name}", json=body), f"strategy {name}")
                    had.append((number, sample.get("id")))
            mine, theirs = ({name for who, name in had if who == number and name} for number in range(2))
            expect(mine and not mine & theirs, f"two annotators were handed {sorted(mine & theirs) or 'nothing'}")

    def test_sample_for_a_tag_that_leads_out(self, server: Server) -> None:
        """422."""
        require_datastore(server)
        expect_refused(server.request("POST", "/activelearning/first", json={"label_tag": "../x"}), (422,), "the tag ../x")
