"""What a command prints, as log lines and progress."""

from __future__ import annotations

import pytest

from delineate.runners import output_log
from delineate.runners.output_log import OutputLog, read_progress


class Sink:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progress: list[tuple[float, str]] = []
        self.log = OutputLog(self.lines.append, lambda fraction, text: self.progress.append((fraction, text)))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("progress: 0.4 lungs", (0.4, "lungs")),
        ("Progress: 40% lungs", (0.4, "lungs")),
        ("progress: 40 %", (0.4, "")),
        ("progress: 3", (1.0, "")),
        ('{"progress": 0.25, "message": "left"}', (0.25, "left")),
        ('{"progress": -1}', (0.0, "")),
        ("progress: soon", None),
        ("in progress: 0.4", None),
        ('{"progress": "soon"}', None),
        ('{"progress": 0.5', None),
        ('{"loss": 0.5}', None),
        ('{"progress": ' + "[" * 100_000, None),
        ("", None),
    ],
)
def test_progress(line: str, found: tuple[float, str] | None) -> None:
    assert read_progress(line) == found


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_lines_may_be_cut_anywhere(step: int) -> None:
    sink = Sink()
    data = "grün\nprogress: 0.5 half\r\n 10%\r 20%\rdone\n\nlast".encode()
    for start in range(0, len(data), step):
        sink.log.feed(data[start : start + step])
    sink.log.close()
    assert sink.lines == ["grün", "done", "", "last"]
    assert sink.progress == [(0.5, "half")]
    assert sink.log.last_words() == "grün | done | last"


def test_bytes_that_are_no_text_and_lines_without_end() -> None:
    sink = Sink()
    sink.log.feed(b"\xff\xfe\n" + b"x" * 20_000)
    sink.log.feed(b"y" * 3)
    sink.log.close()
    assert sink.lines[0] == "��"
    assert [len(line) for line in sink.lines[1:]] == [8192, 8192, 20_003 - 2 * 8192]


def test_a_progress_bar_without_newlines_does_not_grow() -> None:
    sink = Sink()
    for number in range(10_000):
        sink.log.feed(b"\r%5d of 10000" % number)
    sink.log.close()
    assert sink.lines == [" 9999 of 10000"]


def test_head_and_tail_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_log, "HEAD_BYTES", 100)
    monkeypatch.setattr(output_log, "TAIL_BYTES", 50)
    sink = Sink()
    for number in range(100):
        sink.log.feed(b"line %04d\n" % number)
        assert len(sink.lines) == min(number + 1, 10)
    sink.log.close()
    assert sink.lines[:10] == [f"line {n:04d}" for n in range(10)]
    assert sink.lines[10] == "[… 850 bytes of output left out …]"
    assert sink.lines[11:] == [f"line {n:04d}" for n in range(95, 100)]


def test_last_words_are_short() -> None:
    sink = Sink()
    sink.log.feed(b"a" * 5000 + b"\nthe end\n")
    assert len(sink.log.last_words()) == 401
    assert sink.log.last_words().endswith("the end")
