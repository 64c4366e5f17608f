"""Runs the unpacked extension under an old Python, with numpy alone: a script, ``python -I mim_old_python.py FOLDER URL SECURE CA``.

A workstation of a few lines stands for the true one; its contours have twice the image's voxels along x and y. Every entry point is run
against the scripted server at URL, whose model halves the image along x. Prints JSON: the Python, numpy, the modules, what went wrong.
Runs on Python 3.7 and newer.
"""

# ruff: noqa: B905, UP031  - the spellings of Python 3.7

import importlib
import json
import os
import platform
import sys
import types

import numpy as np

MULTIPLIER = (2, 2, 1)


class Vector:
    def __init__(self, values):
        self.values = list(values)

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)


class Array:
    def __init__(self, array):
        self.array = array

    def copyToNPArray(self):
        return self.array.copy()


class Mask(Array):
    def setFromNPArray(self, mask):
        if mask.dtype != bool or mask.shape != self.array.shape:
            raise ValueError("not a mask of the contour")
        self.array[...] = mask


class Contour:
    def __init__(self, image, name):
        self.image, self.name = image, name
        z, y, x = image.array.shape
        self.data = Mask(np.zeros((z, 2 * y, 2 * x), dtype=np.uint8))

    def getData(self):
        return self.data

    def getDims(self):
        return Vector(self.data.array.shape[::-1])

    def getMultiplier(self):
        return Vector(MULTIPLIER)

    def getInfo(self):
        return types.SimpleNamespace(getName=lambda: self.name)

    def isEmpty(self):
        return not self.data.array.any()

    def redrawCompletely(self):
        pass

    def delete(self):
        self.image.contours.remove(self)


class Image:
    def __init__(self, array):
        self.array, self.contours = array, []

    def getRawData(self):
        return Array(self.array)

    def getScaledData(self):
        return Array(self.array * 1.0 - 1024)

    def getNoxelSizeInMm(self):
        return Vector(np.array([1.2, 0.9, 3.3], dtype=np.float32).tolist())

    def getSpace(self):
        size = self.array.shape[::-1]
        return types.SimpleNamespace(getDimensionCount=lambda: 3, getDataDims=lambda: Vector(size))

    def getInfo(self):
        values = {0x00281052: "-1024.0", 0x00281053: "1.0", 0x00100010: "PlantedPatient^Erika"}
        dicom = types.SimpleNamespace(getTags=lambda: list(values), getValue=values.__getitem__)
        return types.SimpleNamespace(getModality=lambda: "CT", getDicomInfo=lambda: dicom)

    def getContours(self):
        return Vector(self.contours)

    def createNewContour(self, name):
        self.contours.append(Contour(self, name))
        return self.contours[-1]


class Session:
    def __init__(self):
        self.lines = []

    def createLogger(self):
        return types.SimpleNamespace(info=self.lines.append, error=self.lines.append)

    def getPointFactory(self):
        def create(space, system, point):
            noxel = [p / s - o for p, s, o in zip(point, (1.2, 0.9, 3.3), (5.0, -3.0, 70.0))]
            return types.SimpleNamespace(toNoxel=lambda: types.SimpleNamespace(getCoord=lambda axis: noxel[axis]))

        return types.SimpleNamespace(createPoint=create, getDicomCoordSystem=lambda: None)


def install():
    """A MIMPython whose decorator leaves functions as they are."""
    package, entry_point, io_types = (types.ModuleType("MIMPython" + part) for part in ("", ".EntryPoint", ".SupportedIOTypes"))
    package.__path__ = []
    entry_point.mim_extension_entrypoint = lambda **texts: lambda function: function
    for name in ("Integer", "String", "XMimContour", "XMimImage", "XMimSession"):
        setattr(io_types, name, type(name, (), {}))
    sys.modules.update({module.__name__: module for module in (package, entry_point, io_types)})


def right(image, suffix=""):
    """Whether the last two contours are the halves of the image."""
    want = np.zeros(image.contours[-1].data.array.shape, dtype=np.uint8)
    want[:, :, : 2 * (image.array.shape[2] // 2)] = 1
    first, second = image.contours[-2:]
    names = (first.name, second.name) == ("First_Half" + suffix, "Second_Half" + suffix)
    return names and (first.data.array == want).all() and (second.data.array == 1 - want).all()


def run(way, folder, url, secure, authority):
    """Load the extension, run every entry point; what went wrong."""
    sys.path.insert(0, os.path.join(folder, "src") if way == "ext" else folder)
    ext = importlib.import_module(way)
    wrong, posts = [], ["InferenceServer%dimages" % n for n in (1, 2, 3, 4)]
    for count, post in enumerate(posts, start=1):
        random = np.random.RandomState(count)
        images = [Image(random.randint(0, 3000, (5, 7, 11)).astype(np.int16)) for _ in range(count)]
        session = Session()
        uid = getattr(ext, post)(session, *images, "noop", 0, url)
        ext.InferenceServerGetFromUid(session, uid, images[0], url, 1, 20)
        wrong += [] if right(images[0]) else [post]
        getattr(ext, post + "Contours")(session, *images, "noop", 1, 1, "First_Half", url)
        one_go = "DelineateImages" if count == 1 else "Delineate%dImages" % count
        getattr(ext, one_go)(session, *images, "noop", secure + "#ca_file=" + authority, 20)
        wrong += [] if right(images[0], " 2") else [one_go]
        wrong += [] if uid not in " ".join(session.lines) else ["uid in the log"]
    try:
        ext.DelineateImages(Session(), Image(np.zeros((3, 4, 5), np.int16)), "failing", url, 20)
        wrong.append("no error")
    except RuntimeError as error:
        wrong += [] if "code 137" in str(error) else [str(error)]
    return wrong


def main(folder, url, secure, authority):
    install()
    wrong = {way: run(way, folder, url, secure, authority) for way in ("ext", "src.ext")}
    modules = sorted(name for name, module in sys.modules.items() if (getattr(module, "__file__", None) or "").startswith(folder))
    print(json.dumps({"python": platform.python_version(), "numpy": np.__version__, "modules": modules, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
