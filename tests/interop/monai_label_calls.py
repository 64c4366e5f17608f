"""Every method of a MONAI Label client, once and with what goes wrong; one JSON object of outcomes on standard output.

Runs in two environments: with the client of the package ``monailabel``, and with ours. It may import nothing else than
the standard library and the client that it is told to. Arguments: module of the client, server, folder with files, name of
a trainer that takes a while, name of a model of slides; `accounts` as a sixth where the server has some.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path


def shape(value):
    """A value without what differs from run to run: types instead of numbers and texts."""
    if isinstance(value, dict):
        return {str(key): shape(member) for key, member in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [shape(member) for member in value[:3]]
    if isinstance(value, (bool, type(None))):
        return value
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def kept(path):
    """A path that a client returned: its file's suffix, and whether there is something in it."""
    if path is None:
        return None
    name = Path(path).name
    suffix = next((known for known in (".nii.gz", ".json") if name.endswith(known)), "")
    return {"suffix": suffix, "filled": Path(path).stat().st_size > 0, "magic": Path(path).read_bytes()[:2].hex()}


def slide_shape(answer):
    """What came of a slide, whatever was found in it: the members of its document, or how its XML begins."""
    path, body = answer
    if isinstance(body, dict):
        return [path, sorted(body)]
    text = body.decode() if isinstance(body, bytes) else body
    return [path, type(body).__name__, "<ASAP_Annotations" in text, '"elements"' in text, '"annotations"' in text]


def task_shape(task):
    """A task without what it has only once it runs: the server may come that far before it answers, or not."""
    return sorted(name for name in task if name not in ("details", "end_ts", "exit_code"))


class Calls:
    """Makes the calls and keeps what came of them."""

    def __init__(self, module, server, folder, trainer, slides):
        names = importlib.import_module(module)
        self.failure = names.MONAILabelClientException
        self.folder = Path(folder)
        (self.folder / "results").mkdir(exist_ok=True)
        self.client = names.MONAILabelClient(server, str(self.folder / "results"), "interop")
        self.trainer, self.slides = trainer, slides
        self.outcomes = {}

    def do(self, step, call, look=shape):
        """One call: what it returned, or what it raised."""
        try:
            value = call()
        except self.failure as error:
            self.outcomes[step] = {"failed": str(error.msg).split(";")[0], "says why": '"detail":' in str(error.msg)}
            return None
        except Exception as error:
            self.outcomes[step] = {"raised": type(error).__name__}
            return None
        self.outcomes[step] = {"returned": look(value)}
        return value

    def run(self):
        """All of them, in an order in which one prepares the next."""
        client = self.client
        self.do("get_server_url", client.get_server_url)
        self.do("auth_enabled", client.auth_enabled)
        self.do("auth_token", lambda: client.auth_token("user", "password"))
        self.do("auth_valid_token", client.auth_valid_token)
        self.do("info", client.info)
        self._datastore()
        self._sessions()
        self._infers()
        self._trains()
        self._with_token()
        return self.outcomes

    def _datastore(self):
        client, image, mask = self.client, str(self.folder / "ct.nii.gz"), str(self.folder / "mask.nii.gz")
        given = {"patient": "p"}
        self.do("upload_image", lambda: client.upload_image(image, "case 1+x", given))
        self.do("upload_image: params as they were", lambda: "client_id" in given, str)
        self.do("upload_image: no id", lambda: client.upload_image(image))
        self.do("upload_image: empty id", lambda: client.upload_image(image, ""))
        self.do("next_sample first", lambda: client.next_sample("first", {"label_tag": "final"}))
        self.do("next_sample: unknown", lambda: client.next_sample("nope", {}))
        self.do("save_label", lambda: client.save_label("case 1+x", mask, "", {"label_info": [{"name": "bone", "idx": 1}]}))
        self.do("save_label: tag", lambda: client.save_label("case 1+x", mask, "original"))
        self.do("save_label: unknown image", lambda: client.save_label("nope", mask))
        self.do("datastore", client.datastore)
        self.do(
            "next_sample random", lambda: client.next_sample("random", None), lambda sample: sorted({"id", "path", "name"} & set(sample))
        )
        self.do("download_label", lambda: client.download_label("case 1+x", "final"), kept)
        self.do("download_label: unknown tag", lambda: client.download_label("case 1+x", "nope"), kept)

    def _sessions(self):
        client, image = self.client, str(self.folder / "ct.nii.gz")
        created = self.do("create_session", lambda: client.create_session(image, {"a": 1})) or {}
        session = created.get("session_id", "none")
        self.do("get_session", lambda: client.get_session(session))
        self.do("infer: session", lambda: self._infer("threshold", "", {}, session_id=session))
        self.do("remove_session", lambda: client.remove_session(session))
        self.do("get_session: gone", lambda: client.get_session(session))
        self.do("remove_session: gone", lambda: client.remove_session(session))

    def _infer(self, *arguments, **named):
        path, params = self.client.infer(*arguments, **named)
        return {"file": kept(path), "params": params}

    def _infers(self):
        image, mask = str(self.folder / "ct.nii.gz"), str(self.folder / "mask.nii.gz")
        self.do("infer", lambda: self._infer("threshold", "case 1+x", {"threshold": 200}))
        self.do("infer: file", lambda: self._infer("threshold", "", {}, file=image))
        self.do("infer: label", lambda: self._infer("threshold", "case 1+x", {}, label_in=mask))
        self.do("infer: no file in the answer", lambda: self._infer("classifier", "case 1+x", {}))
        self.do("infer: unknown model", lambda: self._infer("nope", "case 1+x", {}))
        self.do("infer: no image", lambda: self._infer("threshold", "", {}))
        self.do("upload_image: slide", lambda: self.client.upload_image(str(self.folder / "slide.png"), "slide"))
        for output in ("dsa", "asap", "json"):
            self.do("wsi_infer " + output, lambda: self.client.wsi_infer(self.slides, "slide", {"level": 0}, output), slide_shape)  # noqa: B023
        self.do("wsi_infer: unknown output", lambda: self.client.wsi_infer(self.slides, "slide", {}, "xml"))
        self.do("wsi_infer: unknown model", lambda: self.client.wsi_infer("nope", "slide", {}))

    def _trains(self):
        client = self.client
        self.do("train_status: none", client.train_status)
        self.do("train_status running: none", lambda: client.train_status(True))
        self.do("train_stop: none", client.train_stop)
        if self.do("train_start", lambda: client.train_start(self.trainer, {"seconds": 60}), task_shape) is not None:
            self._until(lambda: client.train_status(True))
        self.do("train_start: busy", lambda: client.train_start(self.trainer, {"seconds": 60}))
        self.do("train_status running", lambda: client.train_status(True))
        self.do("train_status", client.train_status, task_shape)
        self.do("train_stop", client.train_stop, lambda task: task and [task["status"], task_shape(task)])
        self._until(lambda: not client.train_status(True))
        self.do(
            "train_start: all",
            lambda: client.train_start("", {"seconds": 0}),
            lambda tasks: [[sorted(task), task_shape(task["result"])] for task in tasks.values()],
        )

    def _with_token(self):
        client, image = self.client, str(self.folder / "ct.nii.gz")
        self.do("set_server_url", lambda: client.set_server_url(client.get_server_url() + "/"))
        self.do("update_auth", lambda: client.update_auth({"token_type": "Bearer", "access_token": "abc"}))
        self.do("with a token: upload_image", lambda: client.upload_image(image, "case 2"))
        self.do("with a token: create_session", lambda: sorted(client.create_session(image)))
        self.do("with a token: auth_valid_token", client.auth_valid_token)

    def run_accounts(self):
        """What a person with an account meets."""
        client = self.client
        self.do("accounts: auth_enabled", client.auth_enabled)
        self.do("accounts: info: no token", client.info)
        self.do("accounts: auth_valid_token: none", client.auth_valid_token)
        self.do("accounts: auth_token: wrong password", lambda: client.auth_token("alice", "another password"))
        token = self.do("accounts: auth_token", lambda: client.auth_token("alice", "a long enough password"), sorted)
        client.update_auth(token)
        self.do("accounts: auth_valid_token", client.auth_valid_token)
        self.do("accounts: info", client.info, lambda info: sorted(info))
        self.do("accounts: datastore", client.datastore, lambda store: sorted(store))
        self.do("accounts: upload_image: role missing", lambda: client.upload_image(str(self.folder / "ct.nii.gz"), "x"))
        self.do("accounts: train_start: role missing", lambda: client.train_start(self.trainer, {}))
        client.update_auth({"token_type": "Bearer", "access_token": token["access_token"][:-4] + "AAAA"})
        self.do("accounts: info: forged token", client.info)
        return self.outcomes

    @staticmethod
    def _until(condition):
        end = time.monotonic() + 30
        while not condition() and time.monotonic() < end:
            time.sleep(0.2)


if __name__ == "__main__":
    calls = Calls(*sys.argv[1:6])
    json.dump(calls.run_accounts() if sys.argv[6:] == ["accounts"] else calls.run(), sys.stdout, indent=1)
