"""The blocking MONAI Label client: the names, arguments and return values that plugins know."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping
from os import PathLike
from types import TracebackType
from typing import Any, TypeVar

from delineate.client.monai_label_files import (
    Arrival,
    LocalPath,
    LocalPaths,
    file_to_send,
    files_to_send,
    keep_file,
    keep_result,
    slide_answer,
)
from delineate.client.monai_label_session import DEFAULT_TIMEOUT, LabelSession, Way, failures, token_of
from delineate.client.transport import ProgressCallback, SyncDriver
from delineate.protocols.messages import Backoff, Flow
from delineate.protocols.monai_label_fields import Message
from delineate.protocols.monai_label_flows import LabelServer

Result = TypeVar("Result")
AnyMessage = TypeVar("AnyMessage", bound=Message)


class MONAILabelClient:
    """Speaks to one MONAI Label server. Not for use by several threads at once.

    Parameters
    ----------
    server_url : with scheme and, where there is one, path prefix.
    tmpdir : folder for results, made where it is not there; the system's own where None.
    client_id : sent with all parameters where it is not None.
    token : sent as ``Authorization: Bearer``, to this server only.
    ca_file : PEM file of the server's private authority; it alone is trusted then.
    verify : False accepts any certificate; for tests.
    timeout : seconds on the clock that each call may take in all, unless it is told otherwise; None for no limit.
    progress : called with a fraction (0 to 1, or None) and a phrase.
    backoff : pauses between tries and their number.

    Every call raises `MONAILabelClientException`, and nothing else, when it gives no result; its ``__cause__`` is the
    error of `delineate.errors` where there was one. What is given is never changed, files are sent under their own name
    alone, and nothing is larger in memory than a block of a file.

    Examples
    --------
    >>> client = MONAILabelClient("https://server.example", client_id="alice")  # doctest: +SKIP
    >>> path, params = client.infer("spleen", "case_12", {})  # doctest: +SKIP
    """

    def __init__(
        self,
        server_url: str,
        tmpdir: LocalPath | None = None,
        client_id: str | None = None,
        *,
        token: str | None = None,
        ca_file: str | PathLike[str] | None = None,
        verify: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
        progress: ProgressCallback | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        with failures():
            self._session = LabelSession(server_url, client_id, token, ca_file, verify, timeout, progress, backoff)
        self._tmpdir = str(tmpdir) if tmpdir else tempfile.gettempdir()
        self._drivers: dict[Way, SyncDriver] = {}
        self._finalizer = weakref.finalize(self, _close, self._drivers)

    def __enter__(self) -> MONAILabelClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens new ones. Also done when nothing refers to the client any more."""
        _close(self._drivers)

    def get_server_url(self) -> str:
        """The server's URL as it was given, without a slash at its end."""
        return self._session.url

    def set_server_url(self, server_url: str) -> None:
        """Speak to another server from now on. A token stays behind unless host, port and scheme are the same."""
        self.close()
        self._session.move(server_url)

    # ------------------------------------------------------------ accounts

    def update_auth(self, token: Mapping[str, Any] | None) -> None:
        """Send this token, as `auth_token` returned it, from now on; None and an empty one change nothing."""
        if token:
            with failures():
                self._session.authorize(*token_of(token))

    def auth_enabled(self, *, timeout: float | None = None) -> bool:
        """Whether the server has accounts. A server that cannot say raises: no answer is not a no."""
        return self._run(self._server.auth(self._limit(timeout))).enabled

    def auth_token(self, username: str, password: str, *, timeout: float | None = None) -> dict[str, Any]:
        """A token for a name and a password: ``access_token`` and ``token_type``, for `update_auth`."""
        return self._json(self._server.token(username, password, self._limit(timeout)))

    def auth_valid_token(self, *, timeout: float | None = None) -> bool:
        """Whether the server takes the token that is sent."""
        return self._run(self._server.token_is_valid(self._limit(timeout)))

    # ------------------------------------------------------------ the server, samples, sessions

    def info(self, *, timeout: float | None = None) -> dict[str, Any]:
        """What the server is: ``name``, ``version``, ``labels``, ``models``, ``trainers``, ``strategies``, ``datastore``, …"""
        return self._json(self._server.info(self._limit(timeout)))

    def next_sample(self, strategy: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> dict[str, Any]:
        """The image to annotate next, ``id``, ``path``, ``name``; empty where nothing is left."""
        return self._json(self._server.next_sample(strategy, params, self._limit(timeout)), Way.ONCE)

    def create_session(
        self, image_in: LocalPaths, params: Mapping[str, Any] | None = None, *, expiry: int | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Send an image ahead: ``session_id`` and ``session_info``.

        Parameters
        ----------
        image_in : a file; or a folder or a list of files, which are one series.
        expiry : seconds without use until the server forgets it; its own limit where None.
        """
        with failures():
            files = files_to_send(image_in)
        return self._json(self._server.create_session(files, params, expiry=expiry, timeout=self._limit(timeout)), Way.ONCE)

    def get_session(self, session_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """What is known of a session."""
        return self._json(self._server.session(session_id, timeout=self._limit(timeout)))

    def remove_session(self, session_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Forget a session; what it was."""
        return self._json(self._server.remove_session(session_id, self._limit(timeout)), Way.ONCE)

    # ------------------------------------------------------------ datastore

    def upload_image(
        self, image_in: LocalPath, image_id: str | None = None, params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Add an image to the datastore: ``image``, its id; the server makes one of the file's name where none is given."""
        with failures():
            file = file_to_send(image_in)
        return self._json(self._server.upload_image(file, image_id, params, self._limit(timeout)), Way.ONCE)

    def save_label(
        self, image_id: str, label_in: LocalPath, tag: str = "", params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Save the label of an image: ``image`` and ``label``. Without a tag the server takes ``final``."""
        with failures():
            file = file_to_send(label_in)
        return self._json(self._server.save_label(image_id, file, tag, params, self._limit(timeout)))

    def datastore(self, *, timeout: float | None = None) -> dict[str, Any]:
        """All images with their labels: ``objects``, id → ``image`` and ``labels``."""
        return self._json(self._server.datastore(self._limit(timeout)))

    def download_label(self, label_id: str, tag: str, *, timeout: float | None = None) -> str:
        """Fetch a label; the path of the file in `tmpdir`."""
        with failures(), Arrival(self._tmpdir) as arrival:
            return keep_file(arrival, self._run(self._server.download_label(label_id, tag, arrival.file, self._limit(timeout))))

    def download_image(self, image_id: str, *, timeout: float | None = None) -> str:
        """Fetch an image; the path of the file in `tmpdir`."""
        with failures(), Arrival(self._tmpdir) as arrival:
            return keep_file(arrival, self._run(self._server.download_image(image_id, arrival.file, self._limit(timeout))))

    # ------------------------------------------------------------ inference

    def infer(
        self,
        model: str,
        image_id: str | None,
        params: Mapping[str, Any] | None = None,
        label_in: LocalPath | None = None,
        file: LocalPath | None = None,
        session_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> tuple[str | None, Any]:
        """Run a model: the path of the result in `tmpdir`, None where there is no file, and the JSON that came with it.

        Parameters
        ----------
        image_id : of the datastore; empty or None where a session or a file is given.
        label_in : a file with scribbles, or with the mask so far.
        file : an image that is sent along; left out where there is a session.
        session_id : of an image that was sent ahead.
        """
        with failures():
            label = file_to_send(label_in) if label_in else None
            image = file_to_send(file) if file and not session_id else None
        with failures(), Arrival(self._tmpdir) as arrival:
            flow = self._server.infer(model, arrival.file, image_id, params, label, image, session_id, self._limit(timeout))
            return keep_result(arrival, self._run(flow, Way.PATIENT))

    def wsi_infer(
        self,
        model: str,
        image_id: str | None,
        body: Mapping[str, Any] | None = None,
        output: str | None = "dsa",
        session_id: str | None = None,
        *,
        timeout: float | None = None,
    ) -> tuple[None, Any]:
        """Run a model on a slide: None, and what was found: an object for ``dsa`` and ``json``, bytes of XML for ``asap``."""
        with failures(), Arrival(self._tmpdir) as arrival:
            flow = self._server.wsi_infer(model, arrival.file, image_id, body, output, session_id, self._limit(timeout))
            return None, slide_answer(arrival, self._run(flow, Way.PATIENT))

    # ------------------------------------------------------------ training

    def train_start(self, model: str | None, params: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> dict[str, Any]:
        """Start a training: its task; with no model all of them, model → ``result`` and ``detail``. 429 when one runs already."""
        started = self._run(self._server.train_start(model, params, self._limit(timeout)), Way.ONCE)
        return started.to_json() if isinstance(started, Message) else {name: task.to_json() for name, task in started.items()}

    def train_stop(self, *, timeout: float | None = None) -> dict[str, Any] | None:
        """Stop the training: its task, None where none ran."""
        task = self._run(self._server.train_stop(self._limit(timeout)))
        return None if task is None else task.to_json()

    def train_status(self, check_if_running: bool = False, *, timeout: float | None = None) -> Any:
        """The last training's task; with `check_if_running` only whether one runs now."""
        if check_if_running:
            return self._run(self._server.train_is_running(self._limit(timeout)))
        return self._json(self._server.train_status(self._limit(timeout)))

    # ------------------------------------------------------------ how

    @property
    def _server(self) -> LabelServer:
        return self._session.server

    def _limit(self, timeout: float | None) -> float | None:
        with failures():
            return self._session.limit(timeout)

    def _run(self, flow: Flow[Result], way: Way = Way.KEPT) -> Result:
        with failures():
            if way not in self._drivers:
                self._drivers[way] = SyncDriver(self._session.line(way))
            return self._drivers[way].run(flow)

    def _json(self, flow: Flow[AnyMessage], way: Way = Way.KEPT) -> dict[str, Any]:
        return self._run(flow, way).to_json()


def _close(drivers: dict[Way, SyncDriver]) -> None:
    while drivers:
        drivers.popitem()[1].close()
