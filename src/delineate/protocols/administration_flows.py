"""What more can be asked of an inference server than the result of a task: priorities, prompts, looking, cancelling, deleting.

::

    submit → wait · status · log · cancel · delete          models · tasks
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import quote

from delineate.errors import AnswerError, RejectedError, SettingsError
from delineate.protocols import inference_server as wire
from delineate.protocols.inference_flows import CALL_TIMEOUT, InferenceServer, require_uid
from delineate.protocols.inference_server import Dialect, TaskStatus, error_from, is_not_ready, reason_of, require_archive, require_type
from delineate.protocols.messages import Body, Deadline, Flow, Part, Request, Response
from delineate.task import PRIORITIES

LOGS_PATH, ID_PARAMETER = "/api/tasks/logs/", "task_id"  # for administrators, who know no uid


class AdministeredServer(InferenceServer):
    """An inference server and all that is known of asking it."""

    def submit(
        self,
        model: str,
        archive: str,
        key: Optional[str] = None,
        timeout: Optional[float] = None,
        priority: Optional[str] = None,
        prompts: Optional[Mapping[str, Any]] = None,
    ) -> Flow[str]:
        """Post a task; its uid. All as of `InferenceServer.submit`, and for our server only:

        priority : ``batch``, ``normal`` or ``interactive``; strangers are not told.
        prompts : clicks, boxes, scribbles; `RejectedError` where the server takes none.
        """
        if priority is not None and priority not in PRIORITIES:
            raise SettingsError("%r is no priority" % priority, "Use batch, normal or interactive.")
        deadline = Deadline(timeout, self._clock)
        yield from self._detected(deadline)
        if prompts and not self.is_ours:
            raise RejectedError("this server takes no prompts", "Send the task without prompts, or to a Delineate server.")
        query = ((wire.PRIORITY_PARAMETER, priority),) if priority is not None and self.is_ours else ()
        parts = [Part(wire.PROMPTS_FIELD, Body(json.dumps(prompts).encode("utf-8")))] if prompts else []
        uid = yield from self._submit(model, archive, key, deadline, query, parts)
        return uid

    def wait(self, uid: str, timeout: Optional[float] = None) -> Flow[None]:
        """Until the task has a result.

        Raises
        ------
        TaskFailedError, TaskCancelledError, ResultLostError, UnknownTaskError
            It will never have one.
        DeadlineError
            `timeout` seconds passed; the task goes on.
        """
        deadline = Deadline(timeout, self._clock)
        require_uid(uid)
        yield from self._detected(deadline)
        if self.is_ours:
            yield from self._wait_for_end(uid, deadline)
        else:
            yield from self._poll(uid, None, deadline)

    def status(self, uid: str, timeout: Optional[float] = None) -> Flow[TaskStatus]:
        """How the task stands now. Strangers tell no progress, and not whether it is pending or running."""
        deadline = Deadline(timeout, self._clock)
        require_uid(uid)
        yield from self._detected(deadline)
        if self.is_ours:
            result = yield from self._status(uid, deadline, 0.0, 0)
            return result
        answer = yield from self._send(self._result_request(uid, None), deadline, "the state of the task")
        if answer.is_success:
            require_archive(answer)
            return TaskStatus("finished", 1.0)
        if is_not_ready(answer):
            return TaskStatus("pending")
        if answer.status == wire.TASK_FAILED:
            return TaskStatus("failed", reason=reason_of(answer))
        raise self._refusal(answer)

    def delete(self, uid: str, timeout: Optional[float] = None) -> Flow[None]:
        """Delete the task and its files."""
        deadline = Deadline(timeout, self._clock)
        require_uid(uid)
        yield from self._detected(deadline)
        if self.dialect is Dialect.SEED:
            raise AnswerError("this server speaks dialect seed, which cannot delete tasks", "Ask its administrator.")
        request = Request("DELETE", wire.TASK_PATH.format(uid=quote(uid)), timeout=CALL_TIMEOUT)
        if self.dialect is Dialect.V2:
            request = Request("DELETE", wire.TASKS_PATH, ((wire.UID_PARAMETER, uid),), timeout=CALL_TIMEOUT)
        yield from self._done(request, deadline, "the deletion of the task")

    def cancel(self, uid: str, timeout: Optional[float] = None) -> Flow[None]:
        """Stop the task; our server only."""
        deadline = Deadline(timeout, self._clock)
        require_uid(uid)
        yield from self._ours(deadline, "cancel tasks")
        yield from self._done(
            Request("POST", wire.CANCEL_PATH.format(uid=quote(uid)), timeout=CALL_TIMEOUT), deadline, "the cancellation of the task"
        )

    def log(self, uid: str, timeout: Optional[float] = None) -> Flow[str]:
        """What the model printed; our server only. With the server's token a task's id, a small number, will do for the uid."""
        deadline = Deadline(timeout, self._clock)
        is_id = re.fullmatch("[0-9]{1,18}", uid) is not None
        if not is_id:
            require_uid(uid)
        yield from self._ours(deadline, "hand out logs")
        request = Request("GET", wire.LOG_PATH.format(uid=quote(uid)), timeout=CALL_TIMEOUT)
        if is_id:
            request = Request("GET", LOGS_PATH, ((ID_PARAMETER, uid),), timeout=CALL_TIMEOUT)
        answer = yield from self._done(request, deadline, "the log")
        return answer.content.decode("utf-8", "replace")

    def models(self, timeout: Optional[float] = None) -> Flow[List[Dict[str, Any]]]:
        """The models it lists: objects with at least ``human_readable_id``."""
        deadline = Deadline(timeout, self._clock)
        yield from self._detected(deadline)
        if self.dialect is Dialect.SEED:
            raise AnswerError("this server speaks dialect seed, which does not list models", "Ask its administrator for the names.")
        answer = yield from self._done(Request("GET", wire.MODELS_PATH, timeout=CALL_TIMEOUT), deadline, "its models")
        return read_records(answer)

    def tasks(self, state: Optional[str] = None, limit: int = 50, timeout: Optional[float] = None) -> Flow[List[Dict[str, Any]]]:
        """Its tasks, newest first, for administration: needs the server's token. Rows carry no uid."""
        deadline = Deadline(timeout, self._clock)
        yield from self._ours(deadline, "list tasks")
        query: Tuple[Tuple[str, str], ...] = (("limit", str(limit)),)
        if state is not None:
            query += (("state", state),)
        answer = yield from self._done(Request("GET", wire.TASKS_PATH, query, timeout=CALL_TIMEOUT), deadline, "its tasks")
        return [read_task_row(row) for row in read_records(answer)]

    def _done(self, request: Request, deadline: Deadline, what: str) -> Flow[Response]:
        answer = yield from self._send(request, deadline, what)
        if not answer.is_success:
            raise error_from(answer, what)
        return answer

    def _ours(self, deadline: Deadline, what: str) -> Flow[None]:
        """Detect even where a dialect was given: what is asked for is beyond all dialects."""
        yield from self._detected(deadline)
        if not self.is_ours:
            yield from self._ask_for_nobody(deadline)
        if not self.is_ours:
            raise AnswerError("this server does not %s: it speaks dialect %s alone" % (what, self.dialect), "Ask its administrator.")


def read_records(response: Response) -> List[Dict[str, Any]]:
    """A JSON list of objects, as models and tasks are listed."""
    require_type(response, ("application/json", "text/plain", ""))
    body = response.json()
    if not isinstance(body, list) or not all(isinstance(row, dict) for row in body):
        raise AnswerError("the server answered with something that is no list", status=response.status)
    return body


def read_task_row(row: Mapping[str, Any]) -> Dict[str, Any]:
    """One row of a list of tasks with plain members: id, model (its name), state, fraction, created, started, finished, failure."""
    model = row.get("model")
    state = row.get("state") or wire.STATES_BY_NUMBER.get(row.get("status", wire.PENDING_NUMBER), "pending")
    plain = dict(row, state=state, model=model.get("human_readable_id") if isinstance(model, dict) else model)
    plain.pop("uid", None)  # a uid is the right to fetch and delete: lists are for looking
    return plain
