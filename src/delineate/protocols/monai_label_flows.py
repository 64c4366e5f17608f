"""Conversations with a MONAI Label server, as flows (see `delineate.protocols.messages`).

What is sent again after a failure, and what not:

- everything that only reads, a token that is asked for, stopping a training, and saving a label: the same bytes under
  the same id and tag, however often;
- an upload, a session, an infer, the next sample, the start of a training and a removal only where the server surely did
  nothing, or is ours, which knows a repeated request by its key. A training that is refused because one runs already (429)
  is not tried again: that is the answer.
"""

from __future__ import annotations

import json
import mimetypes
import random
import secrets
from typing import Any, BinaryIO, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union
from urllib.parse import urlencode

from delineate.errors import InputError
from delineate.protocols import monai_label as wire
from delineate.protocols import monai_label_datastore as store
from delineate.protocols.inference_server import KEY_HEADER, SERVER_HEADER
from delineate.protocols.messages import (
    Backoff,
    Body,
    Clock,
    Deadline,
    Exchange,
    FileBody,
    Flow,
    Part,
    Progress,
    Request,
    Response,
    multipart,
)
from delineate.protocols.monai_label import path_of
from delineate.protocols.monai_label_answers import OCTETS, base_name
from delineate.protocols.monai_label_failures import error_from
from delineate.protocols.monai_label_fields import by_name

CALL_TIMEOUT = 30.0  # seconds for one small request
LIST_TIMEOUT = 120.0  # a datastore of many thousand images, a training that has to come to its end
JSON_HEADERS = (("Content-Type", "application/json"),)

Params = Optional[Mapping[str, Any]]
Query = Tuple[Tuple[str, str], ...]


class Received(NamedTuple):
    """What is said of a file that a sink took."""

    content_type: str
    disposition: Optional[str]


class LabelServer:
    """What is known of one server, and the conversations with it.

    Parameters
    ----------
    clock : monotonic seconds; all limits are measured by it.
    client_id : sent with everything that takes parameters, None to send none.
    authorization : value of that header, None to send none. It goes where the driver sends it: to this server alone.
    backoff : pauses and number of tries; chance : random number 0 to 1 for jitter.

    Each conversation takes `timeout`, seconds on the clock over all of it, and raises `MONAILabelClientException` for an
    answer that is no success, other errors of `delineate.errors` where there was none that counts.
    """

    def __init__(
        self,
        clock: Clock,
        client_id: Optional[str] = None,
        authorization: Optional[str] = None,
        backoff: Optional[Backoff] = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.client_id = client_id
        self.authorization = authorization
        self.is_ours = False
        self._clock = clock
        self._exchange = Exchange(clock, error_from, backoff, chance)
        self._once = Exchange(clock, error_from, (backoff or Backoff())._replace(tries=1), chance)

    # ------------------------------------------------------------ accounts

    def auth(self, timeout: Optional[float] = None) -> Flow[wire.AuthInfo]:
        """Whether accounts are on, and whose. Servers without them, which know no such path, count as off."""
        answer = yield from self._send(Request("GET", wire.AUTH_PATH, timeout=CALL_TIMEOUT), timeout, "whether accounts are on", False)
        if answer.status in (404, 405):
            return wire.AuthInfo()
        if answer.status in (401, 403):
            return wire.AuthInfo(enabled=True)
        return wire.AuthInfo.from_json(_checked(answer, "whether accounts are on").json())

    def token(self, username: str, password: str, timeout: Optional[float] = None) -> Flow[wire.Token]:
        """A token for a name and a password."""
        form = urlencode({"username": username, "password": password, "grant_type": wire.PASSWORD_GRANT})
        headers = (("Content-Type", "application/x-www-form-urlencoded"),)
        request = Request("POST", wire.TOKEN_PATH, (), headers, Body(form.encode("ascii")), timeout=CALL_TIMEOUT)
        answer = yield from self._send(request, timeout, "a token", False)
        return wire.Token.from_json(_checked(answer, "a token").json())

    def token_is_valid(self, timeout: Optional[float] = None) -> Flow[bool]:
        """Whether the server takes the token that is sent."""
        answer = yield from self._send(Request("GET", wire.TOKEN_VALID_PATH, timeout=CALL_TIMEOUT), timeout, "whether the token is valid")
        if answer.status in (401, 403, 404):
            return False
        _checked(answer, "whether the token is valid")
        return True

    # ------------------------------------------------------------ the server, samples

    def info(self, timeout: Optional[float] = None) -> Flow[wire.Info]:
        """What the server is, and what it can do."""
        answer = yield from self._ask("GET", wire.INFO_PATH, timeout, "what it can do", limit=LIST_TIMEOUT)
        return wire.Info.from_json(answer.json())

    def next_sample(self, strategy: str, params: Params = None, timeout: Optional[float] = None) -> Flow[wire.Sample]:
        """The image to annotate next; empty where nothing is left."""
        path = path_of(wire.STRATEGY_PATH, strategy)
        request = Request("POST", path, (), JSON_HEADERS, _json_body(self._with_client(params)), timeout=None)
        answer = _checked((yield from self._keyed(request, timeout, "the next sample")), "the next sample")
        return wire.Sample.from_json(answer.json() or {})

    # ------------------------------------------------------------ sessions

    def create_session(
        self,
        files: Sequence[str],
        params: Params = None,
        uncompress: bool = False,
        expiry: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> Flow[wire.NewSession]:
        """Send an image ahead: one file, or the files of a series. expiry : seconds without use until it is forgotten."""
        if not files:
            raise InputError("a session needs an image", "Give a file, or a folder with the files of a series.")
        query: Query = ((wire.UNCOMPRESS_PARAMETER, "true"),) if uncompress else ()
        query += ((wire.EXPIRY_PARAMETER, str(expiry)),) if expiry is not None else ()
        fields = [Part(name, Body(str(value).encode("utf-8"))) for name, value in self._with_client(params).items() if value is not None]
        parts = fields + [_file_part(wire.FILES_FIELD, path) for path in files]
        answer = yield from self._put_parts(wire.SESSIONS_PATH, query, parts, timeout, "the session", repeatable=False)
        return wire.NewSession.from_json(answer.json())

    def session(self, session_id: str, update: bool = False, timeout: Optional[float] = None) -> Flow[wire.Session]:
        """What is known of a session; `update` counts as a use of it."""
        query: Query = ((wire.UPDATE_PARAMETER, "true"),) if update else ()
        answer = yield from self._ask("GET", path_of(wire.SESSION_PATH, session_id), timeout, "the session", query=query)
        return wire.Session.from_json(answer.json())

    def remove_session(self, session_id: str, timeout: Optional[float] = None) -> Flow[wire.Session]:
        """Forget a session; what it was."""
        answer = yield from self._ask("DELETE", path_of(wire.SESSION_PATH, session_id), timeout, "the session", repeatable=False)
        return wire.Session.from_json(answer.json() or {})

    # ------------------------------------------------------------ datastore

    def datastore(self, timeout: Optional[float] = None) -> Flow[store.DatastoreIndex]:
        """All images with their labels."""
        query: Query = ((store.OUTPUT_QUERY, "all"),)
        answer = yield from self._ask("GET", store.DATASTORE_PATH, timeout, "the datastore", query=query, limit=LIST_TIMEOUT)
        return store.DatastoreIndex.from_json(answer.json())

    def upload_image(
        self, path: str, image_id: Optional[str] = None, params: Params = None, timeout: Optional[float] = None
    ) -> Flow[store.Saved]:
        """Add an image. Without an id the server makes one of the file's name."""
        query: Query = ((store.IMAGE_QUERY, image_id or ""),)
        parts = [self._params_part(params), _file_part(wire.FILE_FIELD, path)]
        answer = yield from self._put_parts(store.DATASTORE_PATH, query, parts, timeout, "the image", repeatable=False)
        return store.Saved.from_json(answer.json())

    def save_label(
        self, image_id: str, path: str, tag: str = "", params: Params = None, timeout: Optional[float] = None
    ) -> Flow[store.Saved]:
        """Save the label of an image; the tag is `FINAL_TAG` where none is given."""
        query: Query = ((store.IMAGE_QUERY, image_id),) + (((store.TAG_QUERY, tag),) if tag else ())
        parts = [self._params_part(params), _file_part(wire.LABEL_FIELD, path)]
        answer = yield from self._put_parts(store.LABEL_PATH, query, parts, timeout, "the label", repeatable=True)
        return store.Saved.from_json(answer.json())

    def download_label(self, label_id: str, tag: str, sink: BinaryIO, timeout: Optional[float] = None) -> Flow[Received]:
        """Fetch a label into `sink`, an open, seekable binary file."""
        query: Query = ((store.LABEL_QUERY, label_id), (store.TAG_QUERY, tag))
        answer = yield from self._fetch(store.LABEL_PATH, query, sink, timeout, "the label")
        return answer

    def download_image(self, image_id: str, sink: BinaryIO, timeout: Optional[float] = None) -> Flow[Received]:
        """Fetch an image into `sink`, an open, seekable binary file."""
        answer = yield from self._fetch(store.IMAGE_PATH, ((store.IMAGE_QUERY, image_id),), sink, timeout, "the image")
        return answer

    # ------------------------------------------------------------ inference

    def infer(
        self,
        model: str,
        sink: BinaryIO,
        image_id: Optional[str] = None,
        params: Params = None,
        label: Optional[str] = None,
        file: Optional[str] = None,
        session_id: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Flow[Received]:
        """Run a model and write the answer into `sink` as it comes; `read_infer_answer` reads it.

        Parameters
        ----------
        image_id, session_id, file : the image: in the datastore, sent ahead, or sent along. A session goes before a file.
        label : a file with scribbles, or with the mask so far.
        """
        parts = [self._params_part(params)]
        if label:
            parts.append(_file_part(wire.LABEL_FIELD, label))
        if file and not session_id:
            parts.append(_file_part(wire.FILE_FIELD, file))
        content_type, body = multipart(parts)
        headers = (("Content-Type", content_type),)
        request = Request("POST", path_of(wire.INFER_PATH, model), _image_query(image_id, session_id), headers, body, sink)
        yield Progress(None, "inferring")
        answer = yield from self._keyed(request, timeout, "the infer")
        return _received(_checked(answer, "the infer"))

    def wsi_infer(
        self,
        model: str,
        sink: BinaryIO,
        image_id: Optional[str] = None,
        body: Params = None,
        output: Optional[str] = "dsa",
        session_id: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Flow[Received]:
        """Run a model on a slide, or a part of it (`WsiRequest`), and write the answer into `sink`."""
        query = _image_query(image_id, session_id) + (((wire.OUTPUT_PARAMETER, output),) if output else ())
        request = Request("POST", path_of(wire.WSI_PATH, model), query, JSON_HEADERS, _json_body(self._with_client(body)), sink)
        yield Progress(None, "inferring")
        answer = yield from self._keyed(request, timeout, "the infer")
        return _received(_checked(answer, "the infer"))

    # ------------------------------------------------------------ training

    def train_start(
        self, model: Optional[str], params: Params = None, timeout: Optional[float] = None
    ) -> Flow[Union[wire.TaskView, Dict[str, wire.StartedTask]]]:
        """Start the training of a model, or of all where none is named: the task, or by model what became of it."""
        path = path_of(wire.TRAIN_MODEL_PATH, model) if model else wire.TRAIN_PATH
        request = Request("POST", path, (), JSON_HEADERS, _json_body(self._with_client(params)), timeout=LIST_TIMEOUT)
        answer = yield from self._keyed(request, timeout, "the training", self._once)
        value = _checked(answer, "the training").json()
        if model:
            return wire.TaskView.from_json(value)
        return by_name(wire.StartedTask, value)

    def train_stop(self, timeout: Optional[float] = None) -> Flow[Optional[wire.TaskView]]:
        """Stop the training; the task, or None where none ran."""
        answer = yield from self._ask("DELETE", wire.TRAIN_PATH, timeout, "the training", limit=LIST_TIMEOUT)
        value = answer.json()
        return None if value is None else wire.TaskView.from_json(value)

    def train_status(self, timeout: Optional[float] = None) -> Flow[wire.TaskView]:
        """The last training; a 404 where there was none."""
        answer = yield from self._ask("GET", wire.TRAIN_PATH, timeout, "the training")
        return wire.TaskView.from_json(answer.json())

    def train_is_running(self, timeout: Optional[float] = None) -> Flow[bool]:
        """Whether a training runs now."""
        query: Query = ((wire.CHECK_PARAMETER, "true"),)
        answer = yield from self._send(Request("GET", wire.TRAIN_PATH, query, timeout=CALL_TIMEOUT), timeout, "the training")
        if answer.status == 404:
            return False
        _checked(answer, "the training")
        return True

    # ------------------------------------------------------------ requests

    def _ask(
        self,
        method: str,
        path: str,
        timeout: Optional[float],
        what: str,
        params: Params = None,
        query: Query = (),
        repeatable: bool = True,
        limit: Optional[float] = CALL_TIMEOUT,
    ) -> Flow[Response]:
        """A request answered with JSON; with a body where it is a POST."""
        body = _json_body(self._with_client(params)) if method == "POST" else None
        headers = JSON_HEADERS if body is not None else ()
        request = Request(method, path, query, headers, body, timeout=limit)
        answer = yield from self._send(request, timeout, what, True, repeatable)
        return _checked(answer, what)

    def _put_parts(
        self, path: str, query: Query, parts: List[Part], timeout: Optional[float], what: str, repeatable: bool
    ) -> Flow[Response]:
        content_type, body = multipart(parts)
        yield Progress(None, "sending")
        request = Request("PUT", path, query, (("Content-Type", content_type),), body)
        if repeatable:
            answer = yield from self._send(request, timeout, what)
        else:
            answer = yield from self._keyed(request, timeout, what)
        return _checked(answer, what)

    def _fetch(self, path: str, query: Query, sink: BinaryIO, timeout: Optional[float], what: str) -> Flow[Received]:
        answer = yield from self._send(Request("GET", path, query, sink=sink), timeout, what)
        return _received(_checked(answer, what))

    def _keyed(self, request: Request, timeout: Optional[float], what: str, exchange: Optional[Exchange] = None) -> Flow[Response]:
        """Send what our server alone may be sent twice: it knows the key."""
        headers = (*request.headers, (KEY_HEADER, secrets.token_urlsafe(32)))
        answer = yield from self._send(request._replace(headers=headers), timeout, what, True, self.is_ours, exchange)
        return answer

    def _send(
        self,
        request: Request,
        timeout: Optional[float],
        what: str,
        is_authorized: bool = True,
        repeatable: bool = True,
        exchange: Optional[Exchange] = None,
    ) -> Flow[Response]:
        if is_authorized and self.authorization is not None:
            request = request._replace(headers=(*request.headers, ("Authorization", self.authorization)))
        answer = yield from (exchange or self._exchange).send(request, Deadline(timeout, self._clock), what, repeatable=repeatable)
        if SERVER_HEADER.lower() in answer.headers:
            self.is_ours = True
        return answer

    def _with_client(self, params: Params) -> Dict[str, Any]:
        """A copy of the caller's parameters with the client's id; what the caller gave is never changed."""
        given = dict(params or {})
        if self.client_id is not None:
            given["client_id"] = self.client_id
        return given

    def _params_part(self, params: Params) -> Part:
        return Part(wire.PARAMS_FIELD, _json_body(self._with_client(params)))


def _checked(answer: Response, what: str) -> Response:
    if not answer.is_success:
        raise error_from(answer, what)
    return answer


def _received(answer: Response) -> Received:
    return Received(answer.headers.get("content-type", OCTETS), answer.headers.get("content-disposition"))


def _image_query(image_id: Optional[str], session_id: Optional[str]) -> Query:
    query: Query = ((wire.IMAGE_PARAMETER, image_id or ""),)
    return query + (((wire.SESSION_PARAMETER, session_id),) if session_id else ())


def _json_body(value: Mapping[str, Any]) -> Body:
    try:
        return Body(json.dumps(value).encode("utf-8"))
    except (TypeError, ValueError) as error:
        raise InputError(
            "the parameters cannot be written as JSON: %s" % error, "Give plain numbers, texts, lists and dictionaries."
        ) from None


def _file_part(name: str, path: str) -> Part:
    """A file under its own name: where it lies on this machine is nobody's business."""
    filename = base_name(path)
    return Part(name, FileBody(path), filename, mimetypes.guess_type(filename)[0] or OCTETS)
