"""Files of a viewer that runs in the browser (OHIF), out of a folder that the administrator names; nothing of it is ours."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from delineate.errors import SettingsError
from delineate.protocols.messages import Body, FileBody
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.proxy import PREFIX as PROXY
from delineate.server.monai_label.routing import Routes
from delineate.server.results import BodyResponse
from delineate.server.settings import Settings
from delineate.server.threads import Threads

PREFIX: Final = "/ohif"
INDEX: Final = "index.html"
CONFIG: Final = "app-config.js"

_LARGEST_CONFIG: Final = 1 << 20  # bytes

_TYPES: Final = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".json": "application/json", ".map": "application/json", ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json", ".webapp": "application/manifest+json", ".xml": "application/xml",
    ".txt": "text/plain; charset=utf-8", ".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon", ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf",
    ".otf": "font/otf",
}  # fmt: skip
"""The system's own table is another one on each system, and browsers are told to believe what is said here."""

_HASHED: Final = re.compile(r"(?:^|[.-])[0-9a-f]{16,}\.")
"""Names that change with what is in the file."""

_SEGMENT: Final = re.compile(r"(?!\.)[^\x00-\x1f\x7f\\:]{1,255}")
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?(?![^\s\"'`/])")

_ADDRESS: Final = """
// The panel of MONAI Label asks this server, unless somebody chose another.
if (!/(^|; ?)MONAILABEL_SERVER_URL=[^;]/.test(document.cookie)) {{
  document.cookie = 'MONAILABEL_SERVER_URL=' + escape(window.location.origin + '{root}/');
}}
"""

_OURS: Final = """window.config = {{
  routerBasename: '{root}/ohif/',
  showStudyList: true,
  extensions: [],
  modes: [],
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  useSharedArrayBuffer: 'FALSE',
  defaultDataSourceName: 'dicomweb',
  dataSources: [
    {{
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomweb',
      configuration: {{
        friendlyName: 'DICOMweb',
        name: 'dicomweb',
        qidoRoot: '{root}/proxy/dicom/qido',
        wadoRoot: '{root}/proxy/dicom/wado',
        wadoUriRoot: '{root}/proxy/dicom/wado',
        qidoSupportsIncludeField: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        bulkDataURI: {{ enabled: true }},
      }},
    }},
  ],
}};
"""


class ViewerRoutes:
    """Serves the folder `ohif` of the settings.

    Raises
    ------
    SettingsError
        It holds no viewer.
    """

    def __init__(self, settings: Settings, threads: Threads) -> None:
        self._root: Path | None = None
        self._has_dicomweb = bool(settings.dicomweb)
        self._threads = threads
        if settings.ohif is not None:
            self._root = settings.ohif.resolve()
            if not (self._root / INDEX).is_file():
                raise SettingsError(f"the folder that the setting ohif names has no {INDEX}", "See docs/ohif.md for what belongs there.")

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        for method in ("GET", "HEAD"):
            routes.add(f"{PREFIX}/", method, self.file)
            routes.add(f"{PREFIX}/{{path:path}}", method, self.file)

    async def file(self, request: Request, path: str = "") -> Response:
        """A file of the viewer; its page for every address within it."""
        root = self._root
        if root is None:
            raise NotHereError("this server has no viewer", "Name the folder of its files by the setting ohif; see docs/ohif.md.")
        return await self._threads.run(partial(self._answer, root, path, str(request.scope.get("root_path", ""))))

    def _answer(self, root: Path, path: str, prefix: str) -> Response:
        found = _found(root, path)
        if found == root / CONFIG or (found is None and path == CONFIG):
            body, tag = self._configuration(root, prefix), ""
        elif found is not None:
            status = found.stat()
            body, tag = FileBody(str(found), 0, status.st_size), f"{status.st_size:x}-{status.st_mtime_ns:x}"
        else:
            raise NotHereError("the viewer has no such file", "Look into the folder that the setting ohif names.")
        name = CONFIG if found is None else found.name
        kind = _TYPES.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")
        keep = "private, max-age=31536000, immutable" if _HASHED.search(name) else "no-cache"
        headers = {"cache-control": keep, "referrer-policy": "same-origin", "content-security-policy": self._policy(root)}
        return BodyResponse(body, tag=tag, media_type=kind, threads=self._threads, headers=headers)

    def _own(self, root: Path) -> str | None:
        """The folder's own configuration, where it leads to the DICOMweb server through this one, or where there is none behind."""
        text = _text(_found(root, CONFIG))
        return text if PROXY in text or not self._has_dicomweb else None

    def _configuration(self, root: Path, prefix: str) -> Body:
        """The folder's own, else ours."""
        own = self._own(root)
        return Body(((_OURS.format(root=prefix) if own is None else own) + _ADDRESS.format(root=prefix)).encode())

    def _policy(self, root: Path) -> str:
        """What the page may load: what is here, and whatever other servers its configuration names."""
        others = "".join(f" {origin}" for origin in sorted(set(_ORIGIN.findall(self._own(root) or ""))))
        return (
            "default-src 'self' blob: data:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
            f"connect-src 'self' blob: data:{others}; frame-src 'self' blob:{others}; frame-ancestors 'none'; base-uri 'self'"
        )


def _found(root: Path, path: str) -> Path | None:
    """The file of a path; the page itself where a path names none. None for what is missing, or leads out of the folder."""
    segments = [segment for segment in path.split("/") if segment]
    if not all(map(_SEGMENT.fullmatch, segments)):
        return None
    try:
        found = root.joinpath(*segments).resolve()
        if found.is_relative_to(root) and found.is_file():
            return found
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links
        return None
    # An address within the viewer, such as viewer?StudyInstanceUIDs=1.2: the page reads it. A script that is gone is not the page.
    return None if segments and PurePosixPath(segments[-1]).suffix.lower() in _TYPES else root / INDEX


def _text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_CONFIG).decode("utf-8", "replace")
    except OSError:
        return ""
