# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Whether memory grows over a test: what the process has after each 100 of 1,000 images.

With fbclip-small, on Linux::

    python -m tests.benchmark.memory
"""

import tempfile
from pathlib import Path
from typing import Any

from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback

from anomalib_fbclip import FBClip
from tools.bundled_model.parts import draw_category

IMAGES = 1000
BATCH = 10
SHOWN = 100


def resident_memory() -> int:
    """Memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (resident,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(resident.split()[1]) // 1024


class MemoryPrinter(Callback):
    """Prints the process's memory from time to time."""

    def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print it after each ``SHOWN`` images."""
        del trainer, module, outputs, batch
        images = (batch_idx + 1) * BATCH
        if images % SHOWN == 0:
            print(f"{images} images: {resident_memory()} MiB", flush=True)


def main() -> None:
    """Test on drawn images, with every metric."""
    with tempfile.TemporaryDirectory() as folder:
        draw_category(Path(folder), "leather", image_size=160, train_images=1, test_images=IMAGES // 2)
        parts = MVTecAD(folder, "leather", eval_batch_size=BATCH, num_workers=0)
        engine = Engine(default_root_dir=folder, callbacks=[MemoryPrinter()], logger=False, enable_progress_bar=False)
        engine.test(FBClip("fbclip-small", visualizer=False), datamodule=parts)


if __name__ == "__main__":
    main()
