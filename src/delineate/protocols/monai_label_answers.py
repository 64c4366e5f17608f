"""Answers of the MONAI Label API that carry a file: ``multipart/form-data`` read and written, names made safe.

A reader gets an answer that lies in a file already, however large, and finds where its parts begin and end; nothing
but the JSON part is ever in memory. A writer keeps to what old clients, which search for strings, depend on: ``params``
first, then ``image``; ``Content-Type`` the last header of a part; the boundary unquoted and the last parameter; the
file name quoted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, BinaryIO, Dict, Final, List, Optional, Tuple
from urllib.parse import unquote_to_bytes

from delineate.errors import AnswerError
from delineate.protocols.messages import BLOCK, Body, Part, multipart

PARAMS_PART: Final = "params"
IMAGE_PART: Final = "image"
OCTETS: Final = "application/octet-stream"
LONGEST_HEAD: Final = 16 << 10  # bytes of the headers of one part
LARGEST_JSON: Final = 256 << 20  # bytes of JSON that are read into memory
MOST_PARTS: Final = 64

_COMPOUND = re.compile(r"\.(?:nii\.gz|seg\.nrrd|seg\.nii\.gz|tar\.gz|ome\.tiff?)$", re.IGNORECASE)
_SIMPLE = re.compile(r"\.[A-Za-z0-9]{1,10}$")
_PARAMETER = re.compile(r';\s*([\w!#$%&\'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))')


@dataclass(frozen=True)
class AnswerPart:
    """One part of an answer in a file: its name, and `length` bytes from `offset` on."""

    name: str
    filename: Optional[str]
    content_type: str
    offset: int
    length: int


@dataclass(frozen=True)
class InferAnswer:
    """What an infer gave: `params` is any JSON value; `image` says where the result's file lies, None where there is none."""

    params: Any
    image: Optional[AnswerPart] = None


# ---------------------------------------------------------------- writing


def infer_answer(params: Any, image: Body, filename: str, content_type: str = OCTETS) -> Tuple[str, Body]:
    """The answer to an infer without ``output``, and with ``all``: (content type, body), streamed, of known length."""
    return multipart(
        [
            Part(PARAMS_PART, Body(json.dumps(params).encode("utf-8")), None, "application/json"),
            Part(IMAGE_PART, image, filename, content_type),
        ]
    )


# ---------------------------------------------------------------- reading


def read_infer_answer(file: BinaryIO, content_type: str) -> InferAnswer:
    """Read the answer to an infer that lies in `file`, of whatever `output`; the file is left where the scan ended.

    Raises
    ------
    AnswerError
        Cut off, without a result, or something else than the API answers: an HTML page for instance.
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        return _from_parts(file, read_parts(file, content_type))
    size = file.seek(0, 2)
    if kind == "application/json" or kind.endswith("+json"):
        return InferAnswer(read_json(file, 0, size))
    if kind.startswith("text/") or not size:
        raise AnswerError("the server answered an infer with %s" % (kind if size else "nothing"))
    return InferAnswer({}, AnswerPart(IMAGE_PART, None, kind, 0, size))


def _from_parts(file: BinaryIO, parts: List[AnswerPart]) -> InferAnswer:
    params: Any = {}
    image = None
    for part in parts:
        if part.filename is not None and image is None:
            image = part
        elif part.filename is None and part.name == PARAMS_PART:
            params = read_json(file, part.offset, part.length)
    if image is None and not any(part.name == PARAMS_PART for part in parts):
        raise AnswerError("the server answered an infer with neither a result nor a reason")
    return InferAnswer(params, image)


def read_json(file: BinaryIO, offset: int, length: int) -> Any:
    """JSON that lies in a file; `AnswerError` where it is none."""
    if length > LARGEST_JSON:
        raise AnswerError("the server answered with more than %d MB of JSON" % (LARGEST_JSON >> 20))
    file.seek(offset)
    try:
        return json.loads(file.read(length).decode("utf-8"))
    except (ValueError, RecursionError):
        raise AnswerError("the server answered with something that is not the JSON it should be") from None


def read_parts(file: BinaryIO, content_type: str) -> List[AnswerPart]:
    """The parts of a multipart answer that lies in `file`.

    Tolerant where servers and proxies differ: case and order of headers, quoted boundaries, bare line feeds, text before
    the first boundary and after the last.
    """
    boundary = header_parameters(content_type).get("boundary", "")
    if not boundary:
        raise AnswerError("the server answered in parts and does not say where they end")
    return _PartScanner(file, boundary.encode("utf-8")).scan()


class _PartScanner:
    """Walks over a multipart body, a block at a time."""

    def __init__(self, file: BinaryIO, boundary: bytes) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._delimiter = b"\n--" + boundary

    def scan(self) -> List[AnswerPart]:
        """All parts, to the closing delimiter."""
        parts: List[AnswerPart] = []
        end = self._find_delimiter(0)
        while not self._is_last(end):
            if len(parts) == MOST_PARTS:
                raise AnswerError("the server answered in more than %d parts" % MOST_PARTS)
            headers, start = self._read_head(end)
            end = self._find_delimiter(start)
            # the line break before a delimiter belongs to it, as does the one after the head where a part is empty
            stop = end - 1 if end > start and self._at(end - 1, 1) == b"\r" else end
            parts.append(_part(headers, start, max(stop - start, 0)))
        return parts

    def _find_delimiter(self, start: int) -> int:
        """Position of the line feed before the next delimiter from `start` on; -1 is the start of the file."""
        overlap = len(self._delimiter)
        if start == 0 and self._at(0, overlap - 1) == self._delimiter[1:]:
            return -1
        position = max(start - 1, 0)  # an empty part ends where its head does
        while position < self._size:
            block = self._at(position, BLOCK + overlap)
            found = block.find(self._delimiter)
            if found >= 0:
                return position + found
            position += BLOCK
        raise AnswerError("the server's answer is cut off", "Try again; if it happens again, look at what stands between here and it.")

    def _is_last(self, position: int) -> bool:
        return self._at(position + len(self._delimiter), 2) == b"--"

    def _read_head(self, position: int) -> Tuple[Dict[str, str], int]:
        """Headers of the part after the delimiter at `position`, and where its content begins."""
        start = position + len(self._delimiter)
        block = self._at(start, LONGEST_HEAD)
        match = re.search(rb"\r?\n\r?\n", block)
        if match is None:
            raise AnswerError("the server's answer has a part without an end of its headers, or is cut off")
        lines = block[: match.start()].decode("utf-8", "replace").splitlines()
        pairs = (line.partition(":") for line in lines[1:] if ":" in line)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}, start + match.end()

    def _at(self, position: int, length: int) -> bytes:
        self._file.seek(position)
        return self._file.read(length)


def _part(headers: Dict[str, str], offset: int, length: int) -> AnswerPart:
    disposition = headers.get("content-disposition", "")
    name = header_parameters(disposition).get("name", "")
    return AnswerPart(name, filename_of(disposition), headers.get("content-type", OCTETS), offset, length)


# ---------------------------------------------------------------- headers and names


def header_parameters(value: str) -> Dict[str, str]:
    """Parameters of a header like ``form-data; name="x"``, names in lower case; the first of a name counts."""
    found: Dict[str, str] = {}
    for name, quoted, bare in _PARAMETER.findall(value):
        found.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted else bare)
    return found


def filename_of(disposition: Optional[str]) -> Optional[str]:
    """The file name of a ``content-disposition`` as it was sent (RFC 6266); None without one. Never a path to write to."""
    parameters = header_parameters(disposition or "")
    extended = parameters.get("filename*", "")
    charset, _, rest = extended.partition("'")
    if rest:
        encoded = unquote_to_bytes(rest.partition("'")[2])
        return encoded.decode("utf-8" if charset.lower() != "iso-8859-1" else "latin-1", "replace")
    return parameters.get("filename")


def suffix_of(filename: Optional[str], head: bytes = b"") -> str:
    """The suffix for a file of that name, ``.nii.gz`` whole; without a plain one, by the first bytes; perhaps empty.

    The only part of a server's name that a path may be made of: letters and digits alone.
    """
    base = re.split(r"[/\\]", filename or "")[-1]
    match = _COMPOUND.search(base) or _SIMPLE.search(base)
    if match is not None and match.start() > 0:
        return match.group().lower() if match.group().lower() in (".nii", ".nii.gz", ".nrrd") else match.group()
    for magic, suffix in ((b"\x1f\x8b", ".nii.gz"), (b"NRRD", ".nrrd"), (b"\x89PNG", ".png"), (b"PK", ".zip"), (b"<?xml", ".xml")):
        if head.startswith(magic):
            return suffix
    if head[344:347] in (b"n+1", b"ni1"):
        return ".nii"
    return ".dcm" if head[128:132] == b"DICM" else ""


def base_name(path: str) -> str:
    """The last part of a path of any system: all of a local path that a server may see."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
