"""Does a server speak the MONAI Label API, as its clients need it? And, if strict, does it refuse what it should?

The checks add images under ids that begin with ``conformance-`` and remove them again.
"""

from __future__ import annotations

import http.client
import ssl
import time
from typing import Any

import httpx

from delineate.testing.conformance.checks import Checks
from delineate.testing.conformance.monai_label_datastore import DatastoreChecks, StrictDatastoreChecks
from delineate.testing.conformance.monai_label_infer import InferChecks, StrictInferChecks
from delineate.testing.conformance.monai_label_plain import (
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    WHOLE,
    expect_members,
    expect_refused,
    info_of,
    read_json,
)
from delineate.testing.conformance.monai_label_tasks import StrictTaskChecks, TaskChecks
from delineate.testing.conformance.plain import Server, expect

AT_ONCE = 5.0  # seconds


class ServerChecks(Checks):
    """The server itself."""

    def test_info(self, server: Server) -> None:
        """All members that clients parse are there, of their kinds."""
        info = info_of(server)
        needed: dict[str, Any] = {
            "name": TEXT, "description": TEXT, "version": TEXT, "labels": (LIST, OBJECT), "models": OBJECT, "trainers": OBJECT,
            "strategies": OBJECT, "scoring": OBJECT, "train_stats": OBJECT, "datastore": OBJECT,
        }  # fmt: skip
        expect_members(info, "/info/", needed)
        for name, model in info["models"].items():
            kinds: dict[str, Any] = {"type": TEXT, "labels": (LIST, OBJECT), "dimension": WHOLE, "description": TEXT, "config": OBJECT}
            expect_members(model, f"model {name}", kinds)
        for name, trainer in info["trainers"].items():
            expect_members(trainer, f"trainer {name}", {"description": TEXT, "config": OBJECT})
        for group in ("strategies", "scoring"):
            for name, one in info[group].items():
                expect_members(one, f"{name} of {group}", {"description": TEXT})
        expect_members(info["datastore"], "datastore of /info/", {"total": WHOLE, "completed": WHOLE, "label_tags": OBJECT})
        expect(server.model in info["models"], f"/info/ has no model {server.model}")

    def test_info_has_no_config_at_its_top(self, server: Server) -> None:
        """The plugin of 3D Slicer takes such a key for another, older kind of server."""
        expect("config" not in info_of(server), "/info/ has a key config")

    def test_training_is_told_in_info(self, server: Server) -> None:
        """What progress bars read, where there was a training."""
        for name, stats in info_of(server)["train_stats"].items():
            known: dict[str, Any] = {"epoch": WHOLE, "total_epochs": WHOLE, "best_metric": NUMBER, "total_time": (TEXT, *NUMBER)}
            expect_members(stats, f"train_stats of {name}", {}, known)

    def test_path_without_its_slash_is_redirected(self, server: Server) -> None:
        """307 keeps method and body."""
        answer = server.request("GET", "/info")
        expect(answer.status_code == 307, f"/info was answered with {answer.status_code}, not 307")
        target = httpx.URL(server.url.rstrip("/") + "/info").join(answer.headers.get("location", ""))
        expect(target.path.endswith("/info/"), f"/info was redirected to {target.path}")

    def test_stale_length_of_GET_is_not_waited_for(self, server: Server) -> None:  # noqa: N802 - the name is read by people
        """A length without a body."""
        self._answered_at_once(server, "GET", "/info/", (200,))

    def test_stale_length_of_DELETE_is_not_waited_for(self, server: Server) -> None:  # noqa: N802
        """A length without a body."""
        self._answered_at_once(server, "DELETE", "/session/no-such-session", (404, 406))

    def _answered_at_once(self, server: Server, method: str, path: str, statuses: tuple[int, ...]) -> None:
        url = httpx.URL(server.url.rstrip("/"))
        line: http.client.HTTPConnection
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=server.ca_file)
            line = http.client.HTTPSConnection(url.host, url.port, timeout=AT_ONCE, context=context)
        else:
            line = http.client.HTTPConnection(url.host, url.port, timeout=AT_ONCE)
        begin = time.monotonic()
        try:
            line.putrequest(method, url.path.rstrip("/") + path)
            if server.token:
                line.putheader("Authorization", f"Bearer {server.token}")
            line.putheader("Content-Length", "1000")
            line.endheaders()
            status = line.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            expect(False, f"{method} {path} with a stale content-length was not answered: {type(error).__name__}")
        finally:
            line.close()
        expect(status in statuses and time.monotonic() - begin < AT_ONCE, f"{method} {path} with a stale content-length: {status}")

    def test_accounts(self, server: Server) -> None:
        """404 where they are off; where they are on, what a client needs to log in."""
        answer = server.request("GET", "/auth/", with_token=False)
        if answer.status_code == 404:
            valid = server.request("GET", "/auth/token/valid")
            expect(valid.status_code in (404, 200), f"/auth/token/valid was answered with {valid.status_code} where accounts are off")
            return
        about = read_json(answer, "/auth/")
        expect_members(about, "/auth/", {"enabled": bool, "client_id": TEXT, "realm": TEXT})
        if about["enabled"]:
            refused = server.request("GET", "/auth/token/valid", with_token=False)
            expect_refused(refused, (401, 403), "a question whether no token is valid")
        if server.token:
            user = read_json(server.request("GET", "/auth/token/valid"), "/auth/token/valid")
            expect_members(user, "the user", {"username": TEXT}, {"email": TEXT, "name": TEXT, "roles": LIST})

    def test_log(self, server: Server) -> None:
        """As text; where it is for administrators alone, refused."""
        answer = server.request("GET", "/logs/", {"lines": "5", "text": "true"})
        if answer.status_code not in (401, 403):
            kind = answer.headers.get("content-type", "")
            expect(answer.status_code == 200 and kind.startswith("text/plain"), f"the log came with {answer.status_code} as {kind!r}")

    def test_description_of_the_API(self, server: Server) -> None:  # noqa: N802
        """For tools that make clients of it."""
        paths = read_json(server.request("GET", "/openapi.json"), "/openapi.json")["paths"]
        missing = [path for path in ("/info/", "/infer/{model}", "/session/", "/datastore/", "/train/") if path not in paths]
        expect(not missing, f"/openapi.json lacks {', '.join(missing)}")

    def test_unknown_path_is_404(self, server: Server) -> None:
        """Clients try what a server has."""
        answer = server.request("GET", "/no-such-route-anywhere")
        expect(answer.status_code == 404, f"an unknown path was answered with {answer.status_code}")


class MonaiLabelSuite(ServerChecks, InferChecks, DatastoreChecks, TaskChecks):
    """What the clients of the API need to find."""

    dialect = "monai-label"


class StrictMonaiLabelSuite(MonaiLabelSuite, StrictInferChecks, StrictDatastoreChecks, StrictTaskChecks):
    """And what servers of this API are known to get wrong."""

    dialect = "monai-label-strict"
