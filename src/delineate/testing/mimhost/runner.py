"""Runs a built extension in the fake workstation, and looks at what it leaves."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from delineate.testing.mimhost import mimpython
from delineate.testing.mimhost.contours import HostContour, XMimContour
from delineate.testing.mimhost.host import Host, LogLine
from delineate.testing.mimhost.images import HostImage, XMimImage
from delineate.testing.mimhost.manifest import Entry, ExtensionError, entries_of

PLAIN = {"int": int, "java.lang.String": str}
HANDLES = {mimpython.JAVA_NAMES["XMimImage"]: (HostImage, XMimImage), mimpython.JAVA_NAMES["XMimContour"]: (HostContour, XMimContour)}


@dataclass(frozen=True)
class Outcome:
    """What one run did.

    value : what the entry point returned.
    changes : a sentence for each contour that was added, deleted or changed, on any image.
    log, calls, misuses : of this run; a misuse is a call that the host refused, even where the error was caught.
    seconds, host_seconds : of the run, and of these within the host.
    peak : bytes of arrays handed out that existed at once, beyond those that existed before.
    """

    value: object
    changes: tuple[str, ...]
    log: tuple[LogLine, ...]
    calls: tuple[str, ...]
    misuses: tuple[str, ...]
    seconds: float
    host_seconds: float
    peak: int


class HostFailure(Exception):  # noqa: N818  - not an error of the host
    """An entry point failed, and the workstation's contours are as before. ``__cause__`` is the error, if it raised one."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


class LeftBehind(HostFailure):
    """An entry point failed, and contours are not as before: `outcome.changes` says which."""


class Runner:
    """An installed extension. A context manager: it is unpacked, loaded and checked on entry, and its folder is gone afterwards.

    Parameters
    ----------
    host : where it runs.
    path : the built zip.
    load_as : the name by which the entry module is imported: ``ext`` with ``src`` in the search path, or ``src.ext``.
    keep_loaded : whether modules stay in ``sys.modules`` afterwards, as in the workstation, which forgets none when an
        extension is replaced.
    keep_path : whether the search path still leads to the extension when its entry points run.

    Attributes
    ----------
    entries : entry points, in the order of the manifest.
    folder : where the extension is.

    Raises
    ------
    ExtensionError
        Not an extension, it cannot be loaded, or its manifest and its entry points differ.
    """

    entries: list[Entry]
    folder: Path

    def __init__(
        self, host: Host, path: Path | str, *, load_as: Literal["ext", "src.ext"] = "ext", keep_loaded: bool = True, keep_path: bool = False
    ) -> None:
        if load_as not in ("ext", "src.ext"):
            raise ValueError("an extension is loaded as ext or as src.ext")
        self.host, self.path, self.load_as = host, Path(path), load_as
        self._keeps = (keep_loaded, keep_path)

    def __enter__(self) -> Runner:
        self.folder = Path(tempfile.mkdtemp(prefix="mimhost-")).resolve()
        try:
            self._unpack()
            with mimpython.installed():
                module = self._load()
            self.entries = entries_of((self.folder / "info.properties").read_bytes(), module)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self._keeps[0]:
            self.unload()
        sys.path[:] = [place for place in sys.path if not self._is_inside(place)]
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unpack(self) -> None:
        try:
            with zipfile.ZipFile(self.path) as archive:
                archive.extractall(self.folder)
        except (OSError, zipfile.BadZipFile) as error:
            raise ExtensionError(f"{self.path.name} cannot be unpacked: {error}") from None
        for name in ("info.properties", "src/ext.py"):
            if not (self.folder / name).is_file():
                raise ExtensionError(f"{self.path.name} has no {name}")

    def _load(self) -> object:
        # The entry module is executed anew; all else that an older extension has loaded is found as it was left.
        for name in ("ext", "src", "src.ext"):
            sys.modules.pop(name, None)
        place = str(self.folder / "src" if self.load_as == "ext" else self.folder)
        sys.path.insert(0, place)
        importlib.invalidate_caches()
        try:
            return importlib.import_module(self.load_as)
        except Exception as error:
            raise ExtensionError(f"loaded as {self.load_as}: {type(error).__name__}: {error}") from error
        finally:
            if not self._keeps[1]:
                sys.path.remove(place)

    def _is_inside(self, path: str) -> bool:
        return Path(path).is_relative_to(self.folder)

    @property
    def modules(self) -> list[str]:
        """Names of the modules that are loaded from this extension's folder."""
        found = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
        return [name for name, file in found if file and self._is_inside(file)]

    def unload(self) -> None:
        """Forget the extension's modules, as a workstation does that is started anew."""
        for name in self.modules:
            del sys.modules[name]

    def entry(self, name: str) -> Entry:
        """The entry point whose function, or whose name in the workstation, that is; KeyError where there is none."""
        for entry in self.entries:
            if name in (entry.method, entry.name):
                return entry
        raise KeyError(f"no entry point {name!r}; there are {[entry.method for entry in self.entries]}")

    # ------------------------------------------------------------ run

    def run(self, name: str, *arguments: object, **named: object) -> Outcome:
        """Run an entry point.

        Parameters
        ----------
        name : of its function, or in the workstation.
        *arguments, **named : its parameters after the session; images and contours as the host's own or as handles.

        Raises
        ------
        TypeError
            Arguments that the workstation would not hand over: too few, too many, or of another type than declared.
        HostFailure
            It raised an error, or what it returned is not what it declares; None is no String.
        LeftBehind
            The same, and contours are not as before.
        """
        entry = self.entry(name)
        values = [self._converted(entry, *pair) for pair in _bound(entry, arguments, named)]
        finish = self._watched()
        value = None
        try:
            with mimpython.installed():
                value = entry.function(self.host.session, *values)
        except (Exception, SystemExit) as error:
            raise _failure(str(error) or type(error).__name__, finish(None)) from error
        problem = self._problem(entry, value)
        if problem:
            raise _failure(problem, finish(value))
        return finish(value)

    def _watched(self) -> Callable[[object], Outcome]:
        """Note how things are now; the result says what has happened since."""
        host, ledger = self.host, self.host.ledger
        host.take_thread()
        before, live = host.snapshot(), ledger.live
        ledger.peak = live
        marks = len(host.log), len(host.calls), len(host.misuses)
        begin, inside = time.perf_counter(), ledger.seconds

        def finish(value: object) -> Outcome:
            seconds = time.perf_counter() - begin
            changes = tuple(before.changes(host.snapshot()))
            log, calls, misuses = tuple(host.log[marks[0] :]), tuple(host.calls[marks[1] :]), tuple(host.misuses[marks[2] :])
            return Outcome(value, changes, log, calls, misuses, seconds, ledger.seconds - inside, ledger.peak - live)

        return finish

    def _converted(self, entry: Entry, name: str, java_type: str, value: object) -> object:
        """An argument as the workstation hands it over."""
        where = f"{entry.method}: {name} is declared as {java_type}, not {type(value).__name__}"
        if java_type in PLAIN:
            if type(value) is not PLAIN[java_type]:
                raise TypeError(where)
            if isinstance(value, int) and not -(2**31) <= value < 2**31:
                raise TypeError(f"{entry.method}: {name} does not fit the workstation's Integer")
            return value
        kinds = HANDLES.get(java_type, ())
        if not isinstance(value, kinds) or not self.host.knows(value):
            raise TypeError(where if not isinstance(value, kinds) else f"{entry.method}: {name} is of another host, or deleted")
        return value.handle if isinstance(value, HostImage | HostContour) else value

    def _problem(self, entry: Entry, value: object) -> str:
        """Why what was returned is a failure; empty where it is none."""
        if not entry.outputs:
            return "" if value is None else f"{entry.method} returned {type(value).__name__}, and declares no output"
        if len(entry.outputs) > 1:
            return f"{entry.method} declares {len(entry.outputs)} outputs; how several are returned is not known"
        java_type = entry.outputs[0][1]
        if java_type in PLAIN:
            is_fine = type(value) is PLAIN[java_type]
        else:
            is_fine = isinstance(value, HANDLES[java_type][1]) and self.host.knows(value)
        return "" if is_fine else f"{entry.method} returned {type(value).__name__}, and declares {java_type}"


def _bound(entry: Entry, arguments: tuple[object, ...], named: dict[str, object]) -> Iterator[tuple[str, str, object]]:
    """(name, Java type, value) of each parameter after the session."""
    pairs = entry.parameters[1:]
    values: dict[str, Any] = dict(zip([name for name, _ in pairs], arguments, strict=False))
    wanted, given = {name for name, _ in pairs}, {*values, *named}
    if len(arguments) > len(pairs) or set(values) & set(named) or wanted != given:
        raise TypeError(f"{entry.method} takes {', '.join(name for name, _ in pairs)} after the session")
    values.update(named)
    return ((name, java_type, values[name]) for name, java_type in pairs)


def _failure(message: str, outcome: Outcome) -> HostFailure:
    if outcome.changes:
        return LeftBehind(f"{message} [left behind: {'; '.join(outcome.changes)}]", outcome)
    return HostFailure(message, outcome)


@contextmanager
def running(host: Host, path: Path | str, **options: Any) -> Iterator[Runner]:
    """A `Runner` whose modules are forgotten afterwards, so that one test does not reach into another."""
    with Runner(host, path, keep_loaded=False, **options) as runner:
        yield runner
