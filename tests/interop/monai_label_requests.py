"""The same requests, common and odd, to the original MONAI Label server and to ours: is what comes back of one kind?

``make interop`` runs it. Compared are status, content type, redirects, file names, the members of JSON and the heads of parts.
Where ours is meant to answer otherwise, `MEANT` says why. Exit code 1 when anything else differs.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
from monai_label import peer_server
from monai_label_ours import BY_NAME, our_server

from delineate import nifti
from delineate.geometry import Geometry
from delineate.testing.conformance.monai_label_plain import picture
from delineate.volume import Volume

BOUNDARY = "interop-7d0c1"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
JSON = {"Content-Type": "application/json"}
ENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
OFFER = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"}
OURS = {"sleeper": "voxel-forest", "polygons": "nuclei"}

# What ours is meant to answer otherwise: a pattern of the request, and why.
MEANT = {
    r"session_id=none": "an unknown session is not passed over",
    r"params (\[\]|.*(NaN|Infinity))": "what is no JSON object is refused",
    r"params .*model": "the model of the address counts",
    r"params .*foreground": "points that are none are refused",
    r"form: (cut|two files)": "half a form, and two files in one field, are refused",
    r"(label|add) (garbage|text|empty|without extension)": "refused, unless it is readable",
    r"form: (octets|broken JSON)": "a body that is no form is not passed over",
    r"id (\.\.|\.hidden|/tmp|q\\|end|tab| )|tag (\.\.|a/b)": "names that lead elsewhere, or that not every disk takes, are refused",
    r"tag=$": "an empty tag is the usual one",
    r"unknown": "an image that is not there",
    r"sample .*client_id": "taken where it makes sense",
}


class Request(NamedTuple):
    """What is sent, and what it is called."""

    name: str
    method: str
    target: str
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    body: bytes | None = None


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """Its content type without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip()


def part(name: str, data: bytes | str, filename: str | None = None) -> bytes:
    """A part of a form."""
    given = "" if filename is None else f'; filename="{filename}"\r\nContent-Type: application/octet-stream'
    return f'Content-Disposition: form-data; name="{name}"{given}\r\n\r\n'.encode() + (data.encode() if isinstance(data, str) else data)


def form(*parts: bytes) -> bytes:
    """A whole form."""
    mark = f"--{BOUNDARY}".encode()
    return b"".join(mark + b"\r\n" + one + b"\r\n" for one in parts) + mark + b"--\r\n"


def requests(ct: bytes, mask: bytes) -> Iterator[Request]:
    """All of them, in an order in which those that change something come last."""
    yield from _paths()
    yield from _infers(ct, mask)
    yield from _slides()
    yield from _samples()
    yield from _reading(ct)
    yield from _ids(ct, mask)
    yield from _informations()
    yield from _works()


def _paths() -> Iterator[Request]:
    paths = "/info /info/ /infer/threshold /infer/threshold/ /batch/infer/ /train /session /session/none/ /datastore /datastore/image/"
    paths += " /datastore/label/ /model/none/ /logs /scoring /activelearning/first/ /nope //info/"
    for path in paths.split():
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            yield Request(f"{method} {path}", method, path)
    for accept in ("*/*", "text/html", "image/png"):
        yield Request(f"accept {accept}", "GET", "/info/", {"Accept": accept})
    yield Request("h2c: info", "GET", "/info/", OFFER)


def _infers(ct: bytes, mask: bytes) -> Iterator[Request]:
    def infer(name: str, query: str, body: bytes | None, headers: dict[str, str] = FORM, model: str = "threshold") -> Request:
        return Request(name, "POST", f"/infer/{model}{query}", headers, body)

    empty, image = part("params", "{}"), "?image=ct_small"
    for query in ("", "?image=", image, *(f"{image}&output={one}" for one in ("", "image", "json", "all", "dicom_seg", "IMAGE", "None")),
                  "?image=none", "?image=ct%5Fsmall", "?image=none&image=ct_small", f"{image}&session_id=", f"{image}&session_id=none",
                  f"{image}&device=cpu", f"?&&{image[1:]}&&", "?image=..%2Fct_small", "?image=%00", "?image=%FF"):  # fmt: skip
        yield infer(f"infer {query}", query, form(empty))
    for model in ("none", "threshold%20", "Threshold", "thr%65shold", "a%2Fb", "classifier"):
        yield infer(f"infer model {model}", image, form(empty), model=model)
    for params in ("", "null", "[]", "{", '"x"', '{"x": NaN}', '{"x": Infinity}', '{"result_extension": ".nrrd", "result_dtype": "uint8"}',
                   '{"result_extension": ".nii"}', '{"result_extension": null}', '{"result_compress": "false"}', '{"client_id": null}',
                   '{"client_id": 7}', '{"label_info": [{"name": "bone", "idx": 1}]}', '{"label_info": {"bone": 1}}', '{"slice": [3]}',
                   '{"foreground": [[1, 2, 3]], "background": []}', '{"foreground": "x"}', '{"foreground": [[1, 2]]}', '{"roi": []}',
                   '{"model": "classifier"}', '{"save_label": "false"}', '{"a": {"b": [1, {"c": null}]}}', '{"ü": "ß"}'):  # fmt: skip
        yield infer(f"params {params}", image, form(part("params", params)))
    bodies = {
        "no parts": form(), "file": form(empty, part("file", ct, "a.nii.gz")), "file first": form(part("file", ct, "a.nii.gz"), empty),
        "file dots": form(part("file", ct, "1.2.840.nii.gz")), "file path": form(part("file", ct, "/home/a b.nii.gz")),
        "file drive": form(part("file", ct, "C:\\data\\a.nii.gz")), "file unicode": form(part("file", ct, "ü 😀.nii.gz")),
        "file nameless": form(part("file", ct, "")), "file not chosen": form(empty, part("file", b"", "")),
        "file plain": form(part("file", "x")),
        "file plain and empty": form(empty, part("file", ""), part("label", "")), "params as file": form(part("params", "{}", "blob")),
        "other field": form(part("other", b"x", "o.bin")), "label": form(part("label", mask, "m.nii.gz")),
        "label plain": form(part("label", "x")),
        "label garbage": form(part("label", b"x", "m.nii.gz")), "label without extension": form(part("label", mask, "m")),
        "two files": form(part("file", ct, "a.nii.gz"), part("file", ct, "b.nii.gz")), "cut": form(empty)[:-4], "no end": form(empty)[:-2],
    }  # fmt: skip
    for name, body in bodies.items():
        yield infer(f"form: {name}", image if name != "file" else "", body)
    whole = form(empty, part("file", ct, "a.nii.gz"))
    for words in ('"{}"', "{}; charset=utf-8", "{};"):
        yield infer(f"boundary {words}", "", whole, {"Content-Type": "multipart/form-data; boundary=" + words.format(BOUNDARY)})
    yield infer("boundary upper", "", whole, {"Content-Type": f"Multipart/Form-Data; BOUNDARY={BOUNDARY}"})
    yield infer("form: encoded", image, b"params=%7B%22x%22%3A+1%7D", ENCODED)
    yield infer("form: broken JSON", image, b"{", JSON)
    yield infer("form: text", image, b"{}", {"Content-Type": "text/plain"})
    yield infer("form: octets", image, b"abc", {"Content-Type": "application/octet-stream"})
    yield infer("form: nothing", image, None, {})
    yield infer("gzip", "", gzip.compress(whole), {**FORM, "Content-Encoding": "gzip"})
    yield infer("chunked", "", whole, {**FORM, "Transfer-Encoding": "chunked"})
    yield infer("continue", "", whole, {**FORM, "Expect": "100-continue"})
    yield infer("h2c: infer", "", whole, {**FORM, **OFFER})
    yield infer("h2c: chunked", "", whole, {**FORM, **OFFER, "Transfer-Encoding": "chunked"})
    yield infer("line's end too many", "", whole.replace(f"\r\n--{BOUNDARY}--".encode(), f"\r\n\r\n--{BOUNDARY}--".encode()))


def _slides() -> Iterator[Request]:
    yield Request("add slide", "PUT", "/datastore/?image=slide", FORM, form(part("file", picture(), "slide.png")))
    for output in ("", "&output=dsa", "&output=asap", "&output=json", "&output=", "&output=none"):
        yield Request(f"wsi {output}", "POST", f"/infer/wsi/polygons?image=slide{output}", JSON, b'{"location": [0, 0], "size": [64, 48]}')
        yield Request(f"wsi_v2 {output}", "POST", f"/infer/wsi_v2/polygons?image=slide{output}", FORM, form(part("wsi", "{}")))
    for body in (b"", b"[]", b"{", b'{"client_id": "x"}', b'{"params": {"foreground": [], "max_workers": 1}}', b'{"params": []}'):
        yield Request(f"wsi {body!r}", "POST", "/infer/wsi/polygons?image=slide&output=dsa", JSON, body)
    yield Request("wsi unknown image", "POST", "/infer/wsi/polygons?image=none", JSON, b"{}")


def _samples() -> Iterator[Request]:
    for body in (b"{}", b"", b"null", b"[]", b"{", b'"x"', b'{"client_id": 5}', b'{"labels": "a"}', b'{"client_id": "\xff"}'):
        yield Request(f"sample {body!r}", "POST", "/activelearning/first", JSON, body)
    yield Request("sample without a type client_id", "POST", "/activelearning/first", {}, b"{}")
    yield Request("sample none", "POST", "/activelearning/none", JSON, b"{}")


def _reading(ct: bytes) -> Iterator[Request]:
    yield Request("label", "PUT", "/datastore/label?image=ct_small", FORM, form(part("params", "{}"), part("label", ct, "m.nii.gz")))
    for output in ("", "stats", "all", "train", "ALL", "x"):
        yield Request(f"datastore output={output}", "GET", f"/datastore/?output={output}")
    for query in (
        "image?image=ct_small", "image?image=slide", "image?image=none", "image", "label?label=ct_small&tag=final",
        "label?label=ct_small", "label?label=ct_small&tag=none", "label?label=ct_small&tag=", "image/info?image=ct_small",
        "image/info?image=none", "label/info?label=ct_small&tag=final", "label/info?label=none&tag=final", "dataset",
        "dataset?limit_cases=-1",
    ):  # fmt: skip
        for method in ("GET", "HEAD") if "info" not in query and "dataset" not in query else ("GET",):
            yield Request(f"{method} {query}", method, f"/datastore/{query}")
    yield Request("HEAD label", "HEAD", "/datastore/label?image=ct_small&tag=final")
    yield Request("HEAD check_sum", "HEAD", "/datastore/image?image=ct_small&check_sum=SHA256:00")
    yield Request("range", "GET", "/datastore/image?image=ct_small", {"Range": "bytes=0-9"})
    for query in ("", "?expiry=-1", "?expiry=x", "?uncompress=false", "?uncompress=maybe"):
        yield Request(f"session {query}", "PUT", f"/session/{query}", FORM, form(part("files", ct, "a.nii.gz")))
    yield Request("session none", "PUT", "/session/", FORM, form())
    yield Request("session other field", "PUT", "/session/", FORM, form(part("file", ct, "a.nii.gz")))
    yield Request("GET session none", "GET", "/session/none")
    yield Request("DELETE session none", "DELETE", "/session/none", {"Content-Length": "0"})


def _ids(ct: bytes, mask: bytes) -> Iterator[Request]:
    for one in (
        "a.b.c",
        "sp ace",
        "p+q",
        "été",
        "x.nii.gz",
        "😀",
        "a'b",
        "a<b",
        "..",
        ".hidden",
        "/tmp/q",
        "q\\w",
        "a/b",
        "end.",
        "tab\tx",
        " ",
    ):
        query = f"image={quote(one, safe='')}"
        yield Request(f"id {one}: add", "PUT", f"/datastore/image?{query}", FORM, form(part("params", "{}"), part("file", ct, "n.nii.gz")))
        yield Request(f"id {one}: get", "GET", f"/datastore/image?{query}")
        yield Request(f"id {one}: label", "PUT", f"/datastore/label?{query}", FORM, form(part("label", mask, "m.nii.gz")))
    files = {"f1.nii.gz": ct, "f 2.nii.gz": ct, "/home/f3.nii.gz": ct, "F4.NII.GZ": ct, "f5.nii": gzip.decompress(ct), "pat.1.nii.gz": ct}
    for name, data in files.items():
        yield Request(f"add {name}", "PUT", "/datastore/", FORM, form(part("file", data, name)))
    for name, sent, data in (
        ("garbage", "g.nii.gz", b"x"),
        ("text", "g.txt", b"x"),
        ("empty", "g.nii.gz", b""),
        ("without extension", "g", ct),
    ):
        yield Request(f"add {name}", "PUT", "/datastore/?image=g", FORM, form(part("file", data, sent)))
    for tag in ("", "final", "my tag", "t+g", "ü", "..", "a/b"):
        body = form(part("label", mask, "m.nii.gz"))
        yield Request(f"tag {tag}: save", "PUT", f"/datastore/label?image=ct_small&tag={quote(tag, safe='')}", FORM, body)


def _informations() -> Iterator[Request]:
    for path, key in (("image/info?image=ct_small", "info"), ("label/info?label=ct_small&tag=final", "info"),
                      ("updatelabelinfo?label=ct_small&tag=final", "params"), ("image/info?image=none", "info")):  # fmt: skip
        for value in ("{}", '{"k": "v"}', "", "{", '{"segmentationMeta": {"status": "approved"}}'):
            yield Request(f"PUT {path} {value}", "PUT", f"/datastore/{path}", ENCODED, f"{key}={quote(value)}".encode())
            yield Request(f"PUT {path} {value} form", "PUT", f"/datastore/{path}", FORM, form(part(key, value)))
        yield Request(f"PUT {path}", "PUT", f"/datastore/{path}")
    for query in (
        "label",
        "label?id=ct_small",
        "label?id=none&tag=final",
        "label?id=ct_small&tag=t%2Bg",
        "image",
        "image?id=none",
        "?id=none",
    ):
        yield Request(f"DELETE {query}", "DELETE", f"/datastore/{query}", {"Content-Length": "0"})


def _works() -> Iterator[Request]:
    for path in ("/train/", "/scoring/", "/batch/infer"):
        for query in ("", "?all=true", "?check_if_running=true", "?all=x"):
            yield Request(f"idle {path}{query}", "GET", path + query)
        yield Request(f"stop {path}", "DELETE", path, {"Content-Length": "0"})
    for path in ("/train/sleeper", "/scoring/dice", "/batch/infer/threshold"):
        for body in (b"[]", b"{", b'"x"'):
            yield Request(f"POST {path} {body!r}", "POST", path, JSON, body)
        yield Request(f"POST {path} run_sync=x", "POST", f"{path}?run_sync=x", JSON, b"{}")


def ask(url: str, request: Request) -> Answer:
    """Send it over a connection of its own."""
    place = urlsplit(url)
    headers, body = dict(request.headers), request.body
    if "Transfer-Encoding" in headers and body is not None:
        body = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    elif body is not None:
        headers["Content-Length"] = str(len(body))
    lines = [
        f"{request.method} {request.target} HTTP/1.1",
        f"Host: {place.netloc}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection((place.hostname, place.port), 120) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        answer = http.client.HTTPResponse(connection, method=request.method)
        answer.begin()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def differences(theirs: Answer, ours: Answer) -> list[str]:
    """What is of another kind in our answer."""
    if theirs.status != ours.status:
        return [f"status {ours.status}, not {theirs.status}"]
    if theirs.status >= 300:
        ends = [answer.headers.get("location", "").partition("?") for answer in (theirs, ours)]
        same = ends[0][0].endswith(ends[1][0].lstrip("./")) and ends[0][2] == ends[1][2]
        return [] if same else [f"location {ours.headers.get('location')}, not {theirs.headers.get('location')}"]
    found = [] if theirs.kind == ours.kind else [f"content type {ours.kind}, not {theirs.kind}"]
    names = [_extension(answer.headers.get("content-disposition", "")) for answer in (theirs, ours)]
    found += [] if names[0] == names[1] else [f"file name {names[1]}, not {names[0]}"]
    if theirs.kind == ours.kind == "application/json" and theirs.body and ours.body:
        found += lacking(json.loads(theirs.body), json.loads(ours.body))
    elif theirs.kind == ours.kind == "multipart/form-data":
        heads = [[_head(one) for one in _parts(answer)] for answer in (theirs, ours)]
        found += [] if heads[0] == heads[1] else [f"parts {heads[1]}, not {heads[0]}"]
    return found


def _parts(answer: Answer) -> list[bytes]:
    return answer.body.split(b"--" + answer.headers["content-type"].partition("boundary=")[2].encode())[1:-1]


def _head(one: bytes) -> str:
    return re.sub(r'filename="[^".]*', 'filename="', one.partition(b"\r\n\r\n")[0].decode())


def _extension(disposition: str) -> str:
    """Of a file's name, of which servers make the rest."""
    return re.sub(r".*?(\.[^.\"]+(\.gz)?)\"?$", r"\1", disposition)


def lacking(theirs: Any, ours: Any, place: str = "") -> list[str]:
    """Members of their answer that ours has not; names of models, images and labels are no members."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        meant = {"user", "strategy"} if place.endswith("info") or not place else set()
        names = [name for name in theirs if name in ours or (place.rpartition(".")[2] not in BY_NAME and name not in meant)]
        return [one for name in names for one in lacking(theirs[name], ours.get(name, "nothing"), f"{place}.{name}".strip("."))]
    is_same = theirs is None or isinstance(ours, type(theirs)) or {type(theirs), type(ours)} <= {int, float, list, dict}
    return [] if is_same else [f"{place or 'it'} is {json.dumps(ours)[:60]}, not {json.dumps(theirs)[:60]}"]


def verdict(request: Request, theirs: Answer, ours: Answer) -> tuple[str, str]:
    """One word, and what differs."""
    found = differences(theirs, ours)
    if not found:
        return "same", ""
    if (theirs.status >= 500 and ours.status < 500) or (theirs.status == 400 and ours.status == 422):
        return "meant", f"{found[0]}: a reason instead of a fault"
    if theirs.status in (404, 405) and ours.status in (404, 405, 422):
        return "meant", f"{found[0]}: refused by both"
    reason = next((reason for pattern, reason in MEANT.items() if re.search(pattern, request.name)), "")
    return ("meant" if reason else "DIFFERS"), f"{'; '.join(found)}{': ' if reason else ''}{reason}"


def main() -> int:
    """Ask both; 0 when nothing differs that is not meant to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=Path(".peers/monai-label"), help="virtual environment with monailabel")
    given = parser.parse_args()
    peer = given.peer.absolute()
    if not (peer / "bin" / "python").exists():
        print(f"there is no environment {peer}: run `make peers-interop` first", file=sys.stderr)
        return 2
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="interop-") as one, tempfile.TemporaryDirectory(prefix="interop-") as other:
        grid = Geometry((24, 20, 12), (1.0, 1.0, 2.0))
        voxels = np.random.default_rng(1).integers(-200, 800, grid.shape).astype(np.int16)
        for folder in (Path(one), Path(other)):
            nifti.write(folder / "ct.nii.gz", Volume(voxels, grid))
            nifti.write_labels(folder / "mask.nii.gz", (voxels > 300).astype(np.uint8), grid)
        ct, mask = ((Path(one) / name).read_bytes() for name in ("ct.nii.gz", "mask.nii.gz"))
        with peer_server(peer, Path(one)) as theirs, our_server(Path(other), has_accounts=False) as ours:
            for request in requests(ct, mask):
                target = re.sub(r"(?<=/)(sleeper|polygons)(?=[/?]|$)", lambda found: OURS[found[0]], request.target)
                word, why = verdict(request, ask(theirs, request), ask(ours, request._replace(target=target)))
                counts[word] = counts.get(word, 0) + 1
                if word != "same":
                    print(f"{word:8}{request.name[:80]}: {why}")
    print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())))
    return 1 if "DIFFERS" in counts else 0


if __name__ == "__main__":
    sys.exit(main())
