"""What the workstation offers: send images, get contours, or both in one go.

The only module that knows MIMPython. It constructs everything; each entry point ends with success, or with one sentence for the person
in the workstation's log and in the error. Where servers, tokens and authorities are written down: `delineate.mim.inference_client`.

The annotations are the workstation's types themselves, which it reads: no ``from __future__ import annotations`` here.
"""

# ruff: noqa: N802  - functions are called as the workstation shows them
# An annotation of what is returned would be an output, so there is none where there is no output:
# mypy: disable-error-code="no-untyped-def,import-not-found"

import contextlib
import os
import re
import time
import traceback
from typing import Any, Callable, Iterator, Optional, Sequence, TypeVar, cast

from MIMPython.EntryPoint import mim_extension_entrypoint
from MIMPython.SupportedIOTypes import Integer, String, XMimImage, XMimSession

from delineate import __version__
from delineate.errors import DeadlineError, DelineateError, SettingsError, TaskEndedError
from delineate.mim.client_backend import ClientBackend
from delineate.mim.contour_loader import ContourLoader
from delineate.mim.inference_client import Connection, InferenceClient
from delineate.mim.task_input import Say, TaskInput, image_grid

Entry = TypeVar("Entry", bound=Callable[..., Any])

FOLDER = os.path.dirname(os.path.abspath(__file__))
SEND_TIMEOUT = 3600.0  # seconds that sending may take
IN_ONE_GO = "Give a larger timeout_sec, or send with InferenceServer1images to 4images, which hand out a uid to ask again with."


def _entry(name: str, description: str, *outputs: str) -> Callable[[Entry], Entry]:
    options = {"outputNames": list(outputs)} if outputs else {}
    decorate = mim_extension_entrypoint(
        name=name, author="The Delineate authors", description=description, category="Segmentation", institution="Delineate",
        version=__version__, **options,
    )  # fmt: skip
    return cast("Callable[[Entry], Entry]", decorate)


@contextlib.contextmanager
def _reported(session: Any) -> Iterator[Say]:
    """Gives what writes into the log. Every error becomes one sentence there and in a RuntimeError, without a cause that may say more."""
    log: Any = None

    def say(sentence: str) -> None:
        with contextlib.suppress(Exception):  # a line that the log refuses must not cost a task that was sent, nor contours that are set
            log.info(sentence)

    try:
        log = session.createLogger()
        yield say
    except Exception as error:
        sentence = _sentence(error)
        with contextlib.suppress(Exception):
            log.error(sentence)
        raise RuntimeError(sentence) from None


def _sentence(error: BaseException) -> str:
    """For a person. The words of the workstation's own errors are left out: they may be of the patient."""
    if isinstance(error, DelineateError):
        text = error.sentence()
        return text[0].upper() + text[1:] if re.match("[a-z]+ ", text) else text  # not an address, not a parameter
    if isinstance(error, MemoryError):
        return "The workstation has not enough memory. Close other images, or send fewer at once."
    if isinstance(error, OSError):
        return "The workstation's system refused a file: %s. Check the disk of the temporary folder." % (error.strerror or "unknown reason")
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if frame.filename.startswith(FOLDER)] or frames)[-1]
    java = re.match(r"(?:[\w$]+\.)+[\w$]+", str(error))
    name = java.group() if java else type(error).__name__
    where = "%s at %s:%s" % (name, os.path.basename(last.filename), last.lineno)
    return "The workstation refused a step (%s). Try again; if it stays so, tell this to whoever maintains the extension." % where


def _is_on(value: Any, name: str) -> bool:
    if value not in (0, 1):
        raise SettingsError("%s is neither 0 nor 1" % name, "Write 1 for yes, 0 for no.")
    return bool(value)


def _backend(server_url: str, say: Say) -> ClientBackend:
    return ClientBackend(Connection.of(server_url, FOLDER), say)


def _post(session: Any, images: Sequence[Any], model: str, dicom_info: int, server_url: str, contours: int = 0, names: str = "") -> str:
    with _reported(session) as say:
        client = InferenceClient(_backend(server_url, say), timeout=SEND_TIMEOUT)
        wanted: Optional[Sequence[str]] = None
        if _is_on(contours, "export_contours"):
            wanted = [name.strip() for name in names.split(",") if name.strip()]
        with_dicom_info = _is_on(dicom_info, "export_dicom_info")
        task = TaskInput.of(session, images, model, with_dicom_info=with_dicom_info, contour_names=wanted, say=say)
        return client.post_task(task)


def _load(session: Any, image: Any, backend: ClientBackend, uid: str, say: Say, timeout: float, interval: float = 2.0) -> None:
    output = InferenceClient(backend, timeout=timeout, interval=interval).get_task(uid, image_grid(session, image))
    names = ContourLoader(session, image, say, overwrite=backend.connection.overwrite).load(output)
    if not names:
        raise TaskEndedError("the model found nothing in this image, no contour is set", "Check that model and image fit.")
    say("Contours are set: %s." % ", ".join(names))


def _in_one_go(session: Any, images: Sequence[Any], model: str, server_url: str, timeout: int) -> None:
    with _reported(session) as say:
        end = time.monotonic() + timeout
        backend = _backend(server_url, say)
        uid = InferenceClient(backend, timeout=timeout).post_task(TaskInput.of(session, images, model, say=say))
        try:
            _load(session, images[0], backend, uid, say, max(end - time.monotonic(), 0.001))
        except DeadlineError as error:
            backend.withdraw(uid)
            # The limit that was given, not what sending left of it.
            error.message = re.sub(r"(?<=time limit of )\S+", "%d" % timeout, error.message)
            error.advice = IN_ONE_GO
            raise


# ------------------------------------------------------------ send


_SENDS = "Sends %s to a model and gives the uid of the task, with which InferenceServerGetFromUid fetches the contours."
_WITH_CONTOURS = " Contours of the first image go along: the names in contour_names, between commas, or all."


@_entry("InferenceServer1images", _SENDS % "one image", "uid")
def InferenceServer1images(
    session: XMimSession, img_zero: XMimImage,
    model_human_readable_id: String, export_dicom_info: Integer, server_url: String,
) -> String:  # fmt: skip
    """Send one image."""
    return _post(session, [img_zero], model_human_readable_id, export_dicom_info, server_url)


@_entry("InferenceServer2images", _SENDS % "two images", "uid")
def InferenceServer2images(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage,
    model_human_readable_id: String, export_dicom_info: Integer, server_url: String,
) -> String:  # fmt: skip
    """Send two images."""
    return _post(session, [img_zero, img_one], model_human_readable_id, export_dicom_info, server_url)


@_entry("InferenceServer3images", _SENDS % "three images", "uid")
def InferenceServer3images(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage, img_two: XMimImage,
    model_human_readable_id: String, export_dicom_info: Integer, server_url: String,
) -> String:  # fmt: skip
    """Send three images."""
    return _post(session, [img_zero, img_one, img_two], model_human_readable_id, export_dicom_info, server_url)


@_entry("InferenceServer4images", _SENDS % "four images", "uid")
def InferenceServer4images(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage, img_two: XMimImage, img_three: XMimImage,
    model_human_readable_id: String, export_dicom_info: Integer, server_url: String,
) -> String:  # fmt: skip
    """Send four images."""
    return _post(session, [img_zero, img_one, img_two, img_three], model_human_readable_id, export_dicom_info, server_url)


@_entry("InferenceServer1imagesContours", _SENDS % "one image" + _WITH_CONTOURS, "uid")
def InferenceServer1imagesContours(
    session: XMimSession, img_zero: XMimImage,
    model_human_readable_id: String, export_dicom_info: Integer,
    export_contours: Integer, contour_names: String, server_url: String,
) -> String:  # fmt: skip
    """Send one image with contours of the first."""
    images = [img_zero]
    return _post(session, images, model_human_readable_id, export_dicom_info, server_url, export_contours, contour_names)


@_entry("InferenceServer2imagesContours", _SENDS % "two images" + _WITH_CONTOURS, "uid")
def InferenceServer2imagesContours(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage,
    model_human_readable_id: String, export_dicom_info: Integer,
    export_contours: Integer, contour_names: String, server_url: String,
) -> String:  # fmt: skip
    """Send two images with contours of the first."""
    images = [img_zero, img_one]
    return _post(session, images, model_human_readable_id, export_dicom_info, server_url, export_contours, contour_names)


@_entry("InferenceServer3imagesContours", _SENDS % "three images" + _WITH_CONTOURS, "uid")
def InferenceServer3imagesContours(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage, img_two: XMimImage,
    model_human_readable_id: String, export_dicom_info: Integer,
    export_contours: Integer, contour_names: String, server_url: String,
) -> String:  # fmt: skip
    """Send three images with contours of the first."""
    images = [img_zero, img_one, img_two]
    return _post(session, images, model_human_readable_id, export_dicom_info, server_url, export_contours, contour_names)


@_entry("InferenceServer4imagesContours", _SENDS % "four images" + _WITH_CONTOURS, "uid")
def InferenceServer4imagesContours(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage, img_two: XMimImage, img_three: XMimImage,
    model_human_readable_id: String, export_dicom_info: Integer,
    export_contours: Integer, contour_names: String, server_url: String,
) -> String:  # fmt: skip
    """Send four images with contours of the first."""
    images = [img_zero, img_one, img_two, img_three]
    return _post(session, images, model_human_readable_id, export_dicom_info, server_url, export_contours, contour_names)


# ------------------------------------------------------------ fetch, and both


@_entry("InferenceServerGetFromUid", "Waits for the contours of a task and sets them on the image that was sent first.")
def InferenceServerGetFromUid(
    session: XMimSession, uid: String, reference_image: XMimImage, server_url: String, polling_interval_sec: Integer, timeout_sec: Integer,
):  # fmt: skip
    """Set the contours of a task."""
    with _reported(session) as say:
        _load(session, reference_image, _backend(server_url, say), uid, say, timeout_sec, polling_interval_sec)


_DELINEATES = "Sends %s to a model, waits, and sets the contours on the first one."


@_entry("DelineateImages", _DELINEATES % "one image")
def DelineateImages(
    session: XMimSession, img_zero: XMimImage,
    model_human_readable_id: String, server_url: String, timeout_sec: Integer,
):  # fmt: skip
    """Send one image, wait, set the contours."""
    _in_one_go(session, [img_zero], model_human_readable_id, server_url, timeout_sec)


@_entry("Delineate2Images", _DELINEATES % "two images")
def Delineate2Images(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage,
    model_human_readable_id: String, server_url: String, timeout_sec: Integer,
):  # fmt: skip
    """Send two images, wait, set the contours."""
    _in_one_go(session, [img_zero, img_one], model_human_readable_id, server_url, timeout_sec)


@_entry("Delineate3Images", _DELINEATES % "three images")
def Delineate3Images(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage, img_two: XMimImage,
    model_human_readable_id: String, server_url: String, timeout_sec: Integer,
):  # fmt: skip
    """Send three images, wait, set the contours."""
    _in_one_go(session, [img_zero, img_one, img_two], model_human_readable_id, server_url, timeout_sec)


@_entry("Delineate4Images", _DELINEATES % "four images")
def Delineate4Images(
    session: XMimSession, img_zero: XMimImage, img_one: XMimImage, img_two: XMimImage, img_three: XMimImage,
    model_human_readable_id: String, server_url: String, timeout_sec: Integer,
):  # fmt: skip
    """Send four images, wait, set the contours."""
    _in_one_go(session, [img_zero, img_one, img_two, img_three], model_human_readable_id, server_url, timeout_sec)
