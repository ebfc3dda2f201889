# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What files of a Lightning model hold and say: adapters, and the description of an exported file."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from anomalib_fbclip.export import describe
from anomalib_fbclip.weights.adapters import Adapters, adapter_tensors, digest_adapters, give_text_features
from anomalib_fbclip.weights.source import AdapterSource

from .few_shot import FewShotMixin
from .trainer_run import TrainerRun


class SavingMixin(FewShotMixin):
    """Saves the adapters of :class:`FBClip`, and describes it."""

    backbone_name: str
    pretrained: str | None
    image_size: tuple[int, int]
    _adapters: AdapterSource

    def description(self) -> dict[str, str]:
        """Describe the model in strings, with trained adapters: an exported file says this of itself.

        Returns:
            dict[str, str]: Backbone, weights, source and digest of the adapters, image size, thresholds, limits of the
                normalization and version of the package, as far as they are known. Lists are JSON.
        """
        self._adapters.make_ready()
        self.prepare_references(TrainerRun(None))
        self.model.text_features()  # a file of torch has them, and may have no CLIP beside it
        own = {
            "patch_size": list(self.model.backbone.patch_size),
            "k_shot": self.model.decision.k_shot,
            "white_level": self.white_level,
            "adapters": digest_adapters(self.model),
        }
        return describe(self.metadata() | own, self.post_processor)

    def save_adapters(self, path: str | Path, with_references: bool = False) -> None:
        """Write the adapters, without the frozen CLIP, to a file that ``weights`` takes.

        The file has the text features, too, so that inference with it loads no text tower.

        Args:
            path (str | Path): A file with the suffix ``.safetensors``.
            with_references (bool, optional): Whether the file gets the good photographs' patches, too. Defaults to
                ``False``.

        Raises:
            ValueError: If the path has another suffix.
        """
        self._adapters.make_ready()
        text_features, of_text = give_text_features(self.model)
        references = self.reference_tensors() if with_references else {}
        tensors = adapter_tensors(self.model) | text_features | references
        Adapters(tensors, self.metadata() | of_text, "The model").save(Path(path))

    def metadata(self) -> dict[str, Any]:
        """What the adapters belong to, as a checkpoint and a file of adapters hold it."""
        return {
            "backbone": self.backbone_name,
            "pretrained": self.pretrained,
            "signature": self.model.backbone.signature,
            "image_size": list(self.image_size),
            "feature_layers": list(self.model.backbone.feature_layers),
            "version": version("anomalib-fbclip"),
            "source": TrainerRun(self._trainer).trained_dataset or self._adapters.trained_on,
        }
