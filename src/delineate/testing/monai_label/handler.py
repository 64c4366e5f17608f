"""How a scripted MONAI Label server answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from delineate.testing.monai_label.script import ASAP, CLASSES, DSA, INFO, PARAMS, PASSWORD, TOKEN, USER, LabelScript
from delineate.testing.scripted_handler import ScriptedHandler

if TYPE_CHECKING:
    from delineate.testing.monai_label.server import ScriptedLabelServer

BOUNDARY = "fcd58e924fc54066a44be5229dbe4063"
GROUPS = ("auth", "info", "activelearning", "session", "datastore", "infer", "train")


class LabelHandler(ScriptedHandler):
    """One connection to a scripted MONAI Label server."""

    peer: ScriptedLabelServer

    @property
    def _script(self) -> LabelScript:
        script = self.peer.script
        assert isinstance(script, LabelScript)
        return script

    def _route(self, body: Path) -> None:
        target = urlsplit(self.path)
        path = target.path.removeprefix(self._script.prefix)
        self._query = {name: values[-1] for name, values in parse_qs(target.query, keep_blank_values=True).items()}
        self._content = body.read_bytes()
        is_open = not self._script.accounts or path in ("/auth/", "/auth/token")
        if not is_open and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json(401, {"detail": "Not authenticated"})
        group, _, rest = path.lstrip("/").partition("/")
        if group not in GROUPS:
            return self._json(404, {"detail": "Not Found"})
        getattr(self, f"_{group}")(unquote(rest))

    # -------------------------------------------------------- accounts, the server

    def _auth(self, rest: str) -> None:
        if not self._script.accounts:
            return self._json(404, {"detail": "Not Found"})
        if rest == "":
            return self._json(200, {"enabled": True, "client_id": "monailabel-app", "realm": "http://realm"})
        if rest == "token/valid":
            return self._json(200, {"username": USER, "email": None, "name": None, "roles": ["user"]})
        form = {name: values[-1] for name, values in parse_qs(self._content.decode()).items()}
        if form == {"username": USER, "password": PASSWORD, "grant_type": "password"}:
            return self._json(200, {"access_token": TOKEN, "token_type": "Bearer"})
        self._json(401, {"detail": "Incorrect username or password"})

    def _info(self, rest: str) -> None:
        self._json(200, INFO)

    def _activelearning(self, strategy: str) -> None:
        self.peer.bodies.append(json.loads(self._content or b"{}"))
        if strategy not in INFO["strategies"]:
            return self._json(404, {"detail": "Not Found"})
        left = [name for name in self.peer.images if not any(image == name for image, _ in self.peer.labels)]
        self._json(200, {"id": left[0], "path": f"/studies/{left[0]}.nii.gz", **self.peer.images[left[0]]} if left else {})

    # -------------------------------------------------------- sessions, datastore

    def _session(self, session: str) -> None:
        if self.command == "PUT":
            form = self._form()
            name = f"c3b80b24-{len(self.peer.forms)}"
            path = f"/local/{name}"
            info = {"name": name, "path": path, "image": f"{path}/{form.files[0][1]}", "meta": {}, "create_ts": 1, "expiry": 3600}
            self.peer.sessions[name] = info
            return self._json(200, {"session_id": name, "session_info": info})
        if session not in self.peer.sessions:
            return self._json(404, {"detail": f"Session ({session}) Not Found"})
        self._json(200, self.peer.sessions.pop(session) if self.command == "DELETE" else self.peer.sessions[session])

    def _datastore(self, what: str) -> None:
        if self.command == "PUT":
            return self._save(what)
        if what == "":
            return self._json(200, {"name": "new-dataset", "images_dir": ".", "labels_dir": "labels", "objects": self._objects()})
        if what == "label" and (self._query["label"], self._query["tag"]) not in self.peer.labels:
            return self._json(404, {"detail": "Label NOT Found"})
        if what == "image" and self._query["image"] not in self.peer.images:
            return self._json(404, {"detail": "Image NOT Found"})
        self._file(self._script.mask, "application/octet-stream")

    def _save(self, what: str) -> None:
        form, image, tag = self._form(), self._query["image"], self._query.get("tag") or "final"
        params = json.loads(form.fields["params"])
        if what != "label":
            image = image or form.files[0][1].split(".")[0]
            self.peer.images[image] = {**params, "name": f"{image}.nii.gz"}
            return self._json(200, {"image": image})
        if image not in self.peer.images:
            return self._answer(500, b"Internal Server Error", "text/plain; charset=utf-8")
        self.peer.labels[image, tag] = params
        self._json(200, {"image": image, "label": image})

    def _objects(self) -> dict[str, Any]:
        objects: dict[str, Any] = {}
        for image, info in self.peer.images.items():
            labels = {tag: {"ext": ".nii.gz", "info": params} for (of, tag), params in self.peer.labels.items() if of == image}
            objects[image] = {"image": {"ext": ".nii.gz", "info": info}, "labels": labels}
        return objects

    # -------------------------------------------------------- inference, training

    def _infer(self, model: str) -> None:
        if model.startswith("wsi/"):
            self.peer.bodies.append(json.loads(self._content))
            output = self._query.get("output")
            return self._answer(200, ASAP, "application/xml") if output == "asap" else self._json(200, DSA)
        form = self._form()
        image, session = self._query.get("image"), self._query.get("session_id")
        if model not in INFO["models"]:
            return self._answer(500, b"Internal Server Error", "text/plain; charset=utf-8")
        if session and session not in self.peer.sessions:
            return self._json(404, {"detail": "session expired or unknown"})
        if not image and not session and not any(name == "file" for name, *_ in form.files):
            return self._json(500, {"detail": "Neither Image nor File not Session ID input is provided"})
        if model == "classifier":
            return self._json(200, CLASSES)
        self._file(self._parts(), f"multipart/form-data; boundary={self._boundary()}", named=False)

    def _train(self, model: str) -> None:
        task = self.peer.training
        is_running = task is not None and task["status"] == "RUNNING"
        if self.command == "POST":
            request = {"model": model or "tiny", **json.loads(self._content)}
            if is_running:
                return self._json(429, {"detail": "++++++++++ Train Task is Already Running"})
            self.peer.training = {"id": "dc6d", "status": "RUNNING", "request": request, "start_ts": "2026-11-20 14:36:28"}
            started = {**self.peer.training, "status": "SUBMITTED"}
            return self._json(200, started if model else {"tiny": {"result": started, "detail": None}})
        if self.command == "DELETE":
            if task is not None and is_running:
                task.update(status="STOPPED", details=["stopped"])
            return self._json(200, task if is_running else None)
        if task is None or (self._query.get("check_if_running") and not is_running):
            return self._json(404, {"detail": "No Train Tasks Found"})
        self._json(200, task)

    # -------------------------------------------------------- bodies

    def _form(self) -> Any:
        from delineate.testing.monai_label.server import Form

        kind = self.headers.get("Content-Type", "")
        boundary = kind.rpartition("boundary=")[2]
        form = Form(self.path, boundary)
        for part in self._content.split(b"--" + boundary.encode())[1:-1]:
            head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            text = head.decode()
            name = re.findall(r'\bname="([^"]*)"', text)[0]
            filename = re.findall(r'filename="([^"]*)"', text)
            if filename:
                form.files.append((name, filename[0], text.rpartition("Content-Type: ")[2], content.removesuffix(b"\r\n")))
            else:
                form.fields[name] = content.removesuffix(b"\r\n").decode()
        self.peer.forms.append(form)
        return form

    def _boundary(self) -> str:
        return f'"{BOUNDARY}"; charset=utf-8' if self._script.parts == "tolerant" else BOUNDARY

    def _parts(self) -> bytes:
        script = self._script
        params = json.dumps(PARAMS if script.infer_params is None else script.infer_params).encode()
        name = f'; filename="{script.filename}"' if script.disposition else "; filename=x"
        edge = b"--" + BOUNDARY.encode()
        if script.parts == "tolerant":
            head = b"content-type: application/json\nCONTENT-DISPOSITION: form-data; name=params\n\n"
            file = f"Content-Length: {len(script.mask)}\ncontent-disposition: form-data; name=image{name}\n\n".encode()
            return b"preamble\n" + edge + b"\n" + head + params + b"\n" + edge + b"\n" + file + script.mask + b"\n" + edge + b"--\nepilogue"
        head = b'Content-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        file = f'Content-Disposition: form-data; name="image"{name}\r\nContent-Type: application/octet-stream\r\n\r\n'.encode()
        whole = edge + b"\r\n" + head + params + b"\r\n" + edge + b"\r\n" + file + script.mask + b"\r\n"
        return {"crlf": whole + edge + b"--\r\n", "cut": whole, "empty": edge + b"--\r\n"}[script.parts]

    def _file(self, content: bytes, kind: str, named: bool = True) -> None:
        headers: tuple[tuple[str, str], ...] = ()
        if named and self._script.disposition:
            headers = (("Content-Disposition", f'attachment; filename="{self._script.filename}"'),)
        if not self._script.chunked:
            return self._answer(200, content, kind, headers)
        self._send_head(200, -1, kind, headers)
        for start in range(0, len(content), 7):
            block = content[start : start + 7]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        self.wfile.write(b"0\r\n\r\n")

    def _send_head(self, status: int, size: int, kind: str, headers: tuple[tuple[str, str], ...]) -> None:
        more = (("Delineate", "1"),) if self._script.ours else ()
        if size >= 0:
            return super()._send_head(status, size, kind, (*headers, *more))
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Transfer-Encoding", "chunked"), *headers, *more):
            self.send_header(name, value)
        self.end_headers()
