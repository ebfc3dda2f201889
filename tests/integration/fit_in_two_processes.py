# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Train in two processes and write the adapters of each; Lightning starts this script again for the second one.

Usage: ``python fit_in_two_processes.py <backbone> <root of MVTec AD's layout> <output folder>``
"""

import sys
from pathlib import Path

from anomalib.data import MVTecAD
from anomalib.engine import Engine
from safetensors.torch import save_file

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import AuxiliaryDataModule
from anomalib_fbclip.weights.adapters import adapter_tensors

if __name__ == "__main__":
    backbone, root, output = sys.argv[1:]
    source = MVTecAD(root=root, category="bottle")
    datamodule = AuxiliaryDataModule(source, train_batch_size=2, eval_batch_size=2, num_workers=0)
    model = FBClip(backbone=backbone, weights=None, learning_rate=1e-3)
    engine = Engine(default_root_dir=output, accelerator="cpu", devices=2, strategy="ddp", max_epochs=1)
    engine.fit(model, datamodule=datamodule)
    tensors = {name: tensor.detach().clone() for name, tensor in adapter_tensors(model.model).items()}
    save_file(tensors, Path(output) / f"rank{model.global_rank}.safetensors")
