"""The blocking client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from delineate.client.packing import Images, geometry_of, listed, loaded, packed, published, result_file
from delineate.client.session import DEFAULT_TIMEOUT, Session
from delineate.client.structure_file import StructureFile, structure_file
from delineate.client.transport import ProgressCallback, SyncDriver
from delineate.geometry import Geometry
from delineate.protocols.archive import read_result
from delineate.protocols.inference_flows import INTERVAL
from delineate.protocols.inference_server import Dialect, TaskStatus
from delineate.protocols.messages import Backoff
from delineate.segmentation import Segmentation


class Client:
    """Speaks to one inference server, of whatever dialect and make. Not for use by several threads at once.

    Parameters
    ----------
    url : with scheme and, where there is one, path prefix: ``https://server.example:8443/prefix``.
    token : sent as ``Authorization: Bearer`` and ``X-Token``, to this server only.
    ca_file : PEM file of the server's private authority; it alone is trusted then.
    verify : False accepts any certificate; for tests.
    dialect : ``seed``, ``v1`` or ``v2``; None to find out.
    timeout : seconds on the clock that each call may take in all, unless it is told otherwise; ``math.inf`` for no limit.
    progress : called with a fraction (0 to 1, or None) and a phrase.
    backoff : pauses between tries and their number.
    interval : seconds between polls at first, of servers that know no long poll.

    Attributes
    ----------
    notes : what was ignored in the last result that was read, one sentence each.

    Every method raises `delineate.errors.ServerError` when the server cannot be spoken to, with what to do.

    Examples
    --------
    >>> with Client("https://server.example") as client:  # doctest: +SKIP
    ...     segmentation = client.segment("ct.nii.gz", "lungs-ct")
    ...     client.segment("study/", "lungs-ct", to="rtstruct", output="lungs.dcm")
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_file: str | PathLike[str] | None = None,
        verify: bool = True,
        dialect: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        progress: ProgressCallback | None = None,
        backoff: Backoff | None = None,
        interval: float = INTERVAL,
    ) -> None:
        self._session = Session(
            url, token=token, ca_file=ca_file, verify=verify, dialect=dialect, timeout=timeout, progress=progress, backoff=backoff,
            interval=interval,
        )  # fmt: skip
        self.notes: list[str] = []
        self._server = self._session.server
        self._driver = SyncDriver(self._session.line)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._driver.close()

    @property
    def url(self) -> str:
        """Where the server is; https where it insisted on that."""
        return str(self._session.line.address)

    @property
    def dialect(self) -> Dialect | None:
        """The server's dialect, None before anything was said."""
        return self._server.dialect

    def submit(
        self,
        images: Images,
        model: str,
        *,
        priority: str | None = None,
        prompts: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Send images (paths or volumes, in the order the model wants them); the task's uid.

        Parameters
        ----------
        priority : ``batch``, ``normal`` or ``interactive``; only our server heeds it.
        prompts : clicks, boxes, scribbles; only our server takes them.
        key : idempotency key: sent again with the same images it answers the same uid (our server).

        Raises
        ------
        ImageError, UnknownModelError, RejectedError, AuthorizationError
        """
        watch = self._session.stopwatch(timeout)
        with packed(listed(images)) as archive:
            return self._driver.run(self._server.submit(model, str(archive), key, watch.left(), priority, prompts))

    def status(self, uid: str, *, timeout: float | None = None) -> TaskStatus:
        """How the task stands now."""
        return self._driver.run(self._server.status(uid, self._session.limit(timeout)))

    def wait(self, uid: str, timeout: float | None = None) -> None:
        """Return when the task has a result.

        Raises
        ------
        TaskFailedError, TaskCancelledError, ResultLostError, UnknownTaskError
            It will have none.
        DeadlineError
            The time passed; the task goes on.
        """
        self._driver.run(self._server.wait(uid, self._session.limit(timeout)))

    def fetch(
        self,
        uid: str,
        *,
        geometry: Geometry | None = None,
        to: str | None = None,
        output: str | PathLike[str] | None = None,
        source: str | PathLike[str] | None = None,
        series: str = "",
        timeout: float | None = None,
    ) -> Segmentation:
        """Wait for the result and read it.

        Parameters
        ----------
        geometry : that of the first image: size and place are then its own, whatever the headers in the result say
        output : also write the structures there: as label maps by its suffix, or in DICOM
        to : ``rtstruct`` or ``seg``
        source : the DICOM series that they are of; it is read for a file in DICOM, and is the first image's grid then
        series : number or Series Instance UID, where `source` holds several

        Errors as in `wait`; `GeometryError` when the result does not fit, `ArchiveError` when it cannot be read, `InputError`
        when there is nothing that the file could refer to.
        """
        target = structure_file(to, output, source, "", series)
        return self._fetched(uid, geometry or target.geometry, target, self._session.limit(timeout))

    def _fetched(self, uid: str, geometry: Geometry | None, target: StructureFile, limit: float | None) -> Segmentation:
        with result_file() as (path, sink):
            self._driver.run(self._server.fetch(uid, sink, limit))
            sink.flush()
            self.notes = []
            segmentation = read_result(path, geometry, notes=self.notes)
        target.write(segmentation, self.notes)
        return segmentation

    def fetch_archive(self, uid: str, path: str | PathLike[str], *, timeout: float | None = None) -> Path:
        """Wait for the result and save it as it is (a zip, from v2 servers a tar). The file appears when it is whole."""
        target = Path(path)
        with published(target) as sink:
            self._driver.run(self._server.fetch(uid, sink, self._session.limit(timeout)))
        return target

    def segment(
        self,
        images: Images,
        model: str,
        *,
        priority: str | None = None,
        prompts: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout: float | None = None,
        submitted: Callable[[str], None] | None = None,
        to: str | None = None,
        output: str | PathLike[str] | None = None,
        series: str = "",
    ) -> Segmentation:
        """Send, wait, fetch: structures on the grid of the first image.

        Parameters
        ----------
        submitted : called with the uid as soon as there is one: whoever interrupts this call can fetch the result later
        output, to : as for `fetch`; files in DICOM refer to the first image
        series : number or Series Instance UID, where that image is a folder or zip of several

        Errors as in `submit` and `fetch`.
        """
        watch = self._session.stopwatch(timeout)
        target = structure_file(to, output, listed(images)[0], model, series)
        given = loaded(target.replacing_first(images))
        geometry = geometry_of(given[0])
        uid = self.submit(list(given), model, priority=priority, prompts=prompts, key=key, timeout=watch.left())
        if submitted is not None:
            submitted(uid)
        return self._fetched(uid, geometry, target, self._session.limit(watch.left()))

    def models(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The server's models: dictionaries with at least ``human_readable_id``. `AnswerError` where it lists none (seed)."""
        return self._driver.run(self._server.models(self._session.limit(timeout)))

    def tasks(self, *, state: str | None = None, limit: int = 50, timeout: float | None = None) -> list[dict[str, Any]]:
        """The server's tasks, newest first, without uids; needs its token. Our server only."""
        return self._driver.run(self._server.tasks(state, limit, self._session.limit(timeout)))

    def cancel(self, uid: str, *, timeout: float | None = None) -> None:
        """Stop a task; our server only."""
        self._driver.run(self._server.cancel(uid, self._session.limit(timeout)))

    def delete(self, uid: str, *, timeout: float | None = None) -> None:
        """Delete a task and its files."""
        self._driver.run(self._server.delete(uid, self._session.limit(timeout)))

    def log(self, uid: str, *, timeout: float | None = None) -> str:
        """What the model printed; our server only. With the server's token a task's id, as `tasks` lists it, will do."""
        return self._driver.run(self._server.log(uid, self._session.limit(timeout)))
