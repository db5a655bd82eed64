"""Open3D, loaded only where a mesh or a view is asked for.

In: nothing. Out: the `open3d` module. Its binary wants libusb-1.0, libGL, libEGL and libX11, which servers lack; the
first is carried by the wheel `libusb-package` and preloaded here, the others are named in a one-line error.
"""

from __future__ import annotations

import ctypes
import importlib
from types import ModuleType

from mumdata.errors import MumError

__all__ = ["load"]


def load() -> ModuleType:
    """Import open3d; MumError naming the Debian packages to install where a system library is missing."""
    import libusb_package

    library = libusb_package.get_library_path()
    if library is not None:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        if ".so" not in str(error):
            raise
        raise MumError(
            f"open3d cannot be loaded ({error}); on Debian: apt-get install libgl1 libegl1 libx11-6 libgomp1"
        ) from error
