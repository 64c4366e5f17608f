"""Memory of client and server while a 1 GB archive goes up and a 500 MB result comes down.

Noise does not compress, so an image of 800 x 800 x 800 int16 is a 1 GB archive and a noisy label map on it a 500 MB result.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.server import running
from delineate import nifti
from delineate.geometry import Geometry
from delineate.volume import Volume

MODEL = """
import numpy as np
from delineate.segmentation import Segmentation, Structure

class Noise:
    def __init__(self, parameters, folder):
        pass

    def segment(self, job):
        geometry = job.images[0].geometry
        labels = np.random.default_rng(0).integers(0, 256, geometry.shape, dtype=np.uint8)
        return Segmentation(geometry, (labels,), tuple(Structure(f"S{i}", i) for i in range(1, 256)))
"""

CLIENT = """
import pathlib, re, sys
import psutil
from delineate.client.sync import Client
def peak():  # not ru_maxrss: it counts the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
url, image, result = sys.argv[1:]
with Client(url) as client:
    client.models()
    idle = psutil.Process().memory_info().rss / 2**20
    uid = client.submit([pathlib.Path(image)], "noise")
    up = peak()
    client.wait(uid, timeout=600)
    client.fetch_archive(uid, pathlib.Path(result))
    down = peak()
print(idle, up, down)
"""


def _watch(pid: int, stop: threading.Event, peak: list[float]) -> None:
    process = psutil.Process(pid)
    while not stop.wait(0.02):
        peak[0] = max(peak[0], process.memory_info().rss / 2**20)


def main(arguments: list[str]) -> None:
    """One task of that size."""
    with tempfile.TemporaryDirectory(prefix="delineate-bench-") as folder:
        model = Path(folder) / "models" / "noise"
        model.mkdir(parents=True)
        (model / "model.toml").write_text('name = "noise"\nrunner = "python"\n[parameters]\nclass = "noise:Noise"\n')
        (model / "noise.py").write_text(MODEL)
        image = Path(folder) / "image.nii.gz"
        voxels = np.random.default_rng(0).integers(-32768, 32767, (800, 800, 800), dtype=np.int16)
        nifti.write(image, Volume(voxels, Geometry((800, 800, 800))))
        del voxels
        result = Path(folder) / "result.zip"
        with running(workers=1, models=[model.parent], folder=Path(folder)) as server:
            time.sleep(2)
            idle = server.api_rss()
            peak, stop = [idle], threading.Event()
            watcher = threading.Thread(target=_watch, args=(server.process.pid, stop, peak))
            watcher.start()
            command = [sys.executable, "-c", CLIENT, server.url, str(image), str(result)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            stop.set()
            watcher.join()
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
        client_idle, up, down = (float(value) for value in done.stdout.split())
        print(f"archive up {image.stat().st_size / 1e6:.0f} MB, result down {result.stat().st_size / 1e6:.0f} MB")
        print(f"{'server (API process) above idle':<40}{peak[0] - idle:8.0f} MiB  (bar 150; idle {idle:.0f})")
        print(f"{'client above idle, after the upload':<40}{up - client_idle:8.0f} MiB  (bar 150; idle {client_idle:.0f})")
        print(f"{'client above idle, after the download':<40}{down - client_idle:8.0f} MiB  (bar 150)")


if __name__ == "__main__":
    main([])
