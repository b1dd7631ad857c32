"""`sharpline serve` with a fake numpy device, for tests that need a process.

A picture of value 13 loses the device. FAKE_SECONDS is the time of one tile; the device waits while
the file FAKE_HOLD exists; with FAKE_HANG the device hangs when it is closed.
"""

import os
import sys
import threading
import time

import numpy as np

from serving import app
from serving.cli import serve
from superres.model.backends import DeviceLost


class FakeBackend:
    name, device, precision = "fake", "cpu", "fp32"
    any_shape = False

    def __init__(self, bundle, device):
        self.scale = bundle.info.scale
        self.seconds = float(os.environ.get("FAKE_SECONDS", "0"))

    def forward(self, tiles_bhwc):
        if (tiles_bhwc == 13).all():
            raise DeviceLost("device-side assert triggered")
        while os.path.exists(os.environ.get("FAKE_HOLD", "")):
            time.sleep(0.01)
        time.sleep(self.seconds * len(tiles_bhwc))
        return np.repeat(np.repeat(tiles_bhwc, self.scale, axis=1), self.scale, axis=2)

    def warm_up(self, shapes_hw):
        pass

    def close(self):
        if "FAKE_HANG" in os.environ:
            threading.Event().wait()


def main():
    serve.create_app = lambda settings: app.create_app(settings, load_backend=FakeBackend)
    if "FAKE_HANG" in os.environ:
        serve.LOST_SECONDS = 1.0  # the default is nearly ten seconds
    return serve.serve(["--port", "0", "--json", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
