# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What 8 good photographs cost: processor time with them / without, in turn, which holds on a busy machine, too::

    OMP_NUM_THREADS=1 python tests/benchmark/few_shot.py

Weights and the photographs' patches are random.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from speed import ARCHITECTURE, MEMORY, SIDE, Row, create_fbclip, make_images, write_weights

from anomalib_fbclip.modeling.few_shot import MAPS, FewShot
from anomalib_fbclip.modeling.few_shot.calibration import Calibration, Spread
from anomalib_fbclip.modeling.few_shot.few_shot import Merge
from anomalib_fbclip.modeling.few_shot.memory_bank import MemoryBank

PAIRS = 6


def main() -> None:
    """Measure pairs of calls, and print each and the ratio of the medians."""
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder))
        model = create_fbclip(Path(folder), "float32").eval().model
    spreads = {name: Spread(torch.tensor(0.0), torch.tensor(1.0)) for name in MAPS}
    few_shot = FewShot(MemoryBank(torch.randn(MEMORY)), Merge(spreads), Calibration(torch.tensor(3.0)))
    images = make_images(Row("", ""))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with torch.inference_mode():
        model(images)
        for index in range(PAIRS):
            for compared in (bool(index % 2), not index % 2):
                model.decision = few_shot if compared else model.zero_shot
                begin = time.process_time()
                model(images)
                seconds[compared].append(time.process_time() - begin)
            print(f"zero-shot {seconds[False][-1]:.2f} s, with 8 photographs {seconds[True][-1]:.2f} s", flush=True)
    ratio = statistics.median(seconds[True]) / statistics.median(seconds[False])
    print(f"{ARCHITECTURE} at {SIDE} px: {ratio:.3f} times the processor time of zero-shot")


if __name__ == "__main__":
    main()
