"""From start to the first answer of /healthz, and the memory of the API process at rest."""

from __future__ import annotations

import statistics
import time

from benchmarks.server import running


def main(arguments: list[str]) -> None:
    """Five cold starts of the process (files warm), each on an empty data folder."""
    seconds, memory = [], []
    for _ in range(5):
        with running(workers=1) as server:
            seconds.append(server.seconds_to_health)
            time.sleep(2)
            memory.append(server.api_rss())
    print(f"{'start to first /healthz':<34}{statistics.median(seconds):8.2f} s     (bar 1.5 s)")
    print(f"{'API process at rest':<34}{statistics.median(memory):8.0f} MiB   (bar 120 MB)")


if __name__ == "__main__":
    main([])
