"""Tasks on slides: the part that is asked for is opened, not decoded, and outlines become the answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delineate.errors import DelineateError, ImageError, InputError, MissingPartError, ModelError
from delineate.protocols.archive import ResultWriter
from delineate.protocols.infer_result import LARGEST, NAME, InferResult
from delineate.protocols.reference import Reference
from delineate.runners.base import Findings
from delineate.runners.work import refused
from delineate.slides import documents, mask
from delineate.slides.documents import About, document
from delineate.slides.opening import open_slide
from delineate.slides.outlines import Outlines
from delineate.slides.part import DOCUMENT, PartRequest, SlidePart, read_part
from delineate.worker.answer import STEM, Layer
from delineate.worker.referred import Files, suffix_of

_ENTRY: Final = "outlines.txt"  # an archive's .json belongs to a label map
_TEXT: Final = 1 << 16  # letters written at once


@dataclass(frozen=True, eq=False)
class StagedSlide:
    """What a model of slides is given; request : what was said, part : the same on the slide, suffix : of its file."""

    request: PartRequest
    part: SlidePart
    suffix: str


@contextlib.contextmanager
def staged_slide(reference: Reference | None, files: Files, params: Mapping[str, Any]) -> Iterator[StagedSlide]:
    """Open the slide that a reference names, as long as the context lasts.

    Raises
    ------
    ModelError
        Kind ``input``: no reference, no slide, gone or changed, a part outside of it. Kind ``missing``: what reads it is not installed.
    """
    if reference is None:
        raise ModelError("the model works on slides, not on archives of volumes", "Ask for it by the MONAI Label API.", "input")
    place = reference.images[0]
    path = files.find(place)
    try:
        if path.is_dir():
            raise InputError("a series of DICOM files is no slide that is read here", "Send a slide as its scanner wrote it, or a TIFF.")
        request = read_part(params)
        slide = open_slide(path)
    except DelineateError as error:
        raise refused(error) from error
    try:
        files.require_unchanged(place, path)
        yield StagedSlide(request, request.on(slide, place.key), suffix_of(place.name))
    except (InputError, MissingPartError) as error:
        raise refused(error) from error
    except ModelError as error:
        if isinstance(error.__cause__, ImageError):  # a tile that turned out to be damaged while the model ran
            raise refused(error.__cause__) from error
        raise
    finally:
        slide.close()


def require_outlines(result: object) -> Findings:
    """What a model of slides returned. Raises `ModelError` of kind ``output`` where it holds no outlines."""
    if not isinstance(result, Findings) or result.outlines is None:
        raise ModelError("the model gave no outlines", "Return Findings with outlines: see docs/slides.md.", "output")
    return result


def add_outlines(
    writer: ResultWriter,
    layers: Sequence[Layer],
    *,
    findings: Findings,
    staged: StagedSlide,
    params: Mapping[str, Any],
    about: About,
    scratch: Path,
) -> None:
    """Add the file of the answer, and the entry that names it.

    A document of outlines where one was asked for; else a mask, with the outlines in the parameters where they are not too long.

    Raises
    ------
    ModelError
        Kind ``input``: more than fits into the form that was asked for.
    """
    assert findings.outlines is not None
    form, values = staged.request.form, dict(findings.values)
    if params.get(DOCUMENT) or form in ("dsa", "asap"):
        form = form or "json"
        result = InferResult(values, _ENTRY, STEM + documents.SUFFIXES[form])
        with _file(writer, scratch, _ENTRY) as path:
            _write(path, form, findings.outlines, about)
    elif form == "json":
        result = InferResult({**values, **_in_words(findings.outlines, about, required=True)})
    else:
        name = STEM + _mask_suffix(params, staged.suffix)
        result = InferResult({**values, **_in_words(findings.outlines, about)}, name, name)
        try:
            with _file(writer, scratch, name) as path:
                mask.write_mask(path, mask.mask_of(findings.outlines))
        except (InputError, MissingPartError) as error:
            raise refused(error) from error
    writer.add_bytes(NAME, result.to_bytes())


@contextlib.contextmanager
def _file(writer: ResultWriter, scratch: Path, name: str) -> Iterator[Path]:
    path = scratch / name
    yield path
    writer.add_file(name, path)
    path.unlink()


def _write(path: Path, form: str, outlines: Outlines, about: About) -> None:
    with path.open("w", encoding="utf-8", buffering=_TEXT, newline="\n") as file:
        file.writelines(document(form, outlines, about))


def _in_words(outlines: Outlines, about: About, *, required: bool = False) -> dict[str, Any]:
    """The JSON document as plain values; empty where it is too long for an answer's parameters."""
    pieces, length = [], 0
    for piece in document("json", outlines, about):
        length += len(piece)
        if length > LARGEST // 2:
            if required:
                raise ModelError(
                    "there are too many outlines for an answer of this kind", "Ask at /infer/wsi/, or for a smaller part.", "input"
                )
            return {}
        pieces.append(piece)
    words: dict[str, Any] = json.loads("".join(pieces))
    return words


def _mask_suffix(params: Mapping[str, Any], sent: str) -> str:
    """Of the mask's file: as asked for, else that of the image where it keeps numbers as they are."""
    asked = params.get("result_extension")
    if asked and asked not in mask.SUFFIXES:
        raise ModelError("masks of slides are not written with this result_extension", f"Use one of {', '.join(mask.SUFFIXES)}.", "input")
    return asked or (sent if sent in mask.SUFFIXES else mask.SUFFIXES[0])
