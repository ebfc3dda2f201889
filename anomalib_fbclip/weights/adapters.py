# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Trained adapters: read from a file, checked against a model, loaded and saved."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.images.region_of_interest import decode_region, encode_region
from anomalib_fbclip.modeling.few_shot import FewShot, MutualScoring
from anomalib_fbclip.modeling.text_encoder import text_digest

from . import bundled
from .checkpoints import CHECKPOINT_KEY, MODEL_PREFIX, PUBLISHED, Normalization, convert_reference
from .metadata import ARGUMENT_KINDS, PRODUCT_SUFFIX, check_metadata
from .registry import resolve_pretrained, resolve_widths
from .tensor_files import (
    SUFFIXES,
    check_state_dict,
    read_checkpoint,
    read_safetensors,
    reading,
    write_safetensors,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anomalib_fbclip.modeling.fbclip import FBClipModel
    from anomalib_fbclip.modeling.region import RegionOfInterest

logger = logging.getLogger(__name__)

FORMAT = "anomalib-fbclip adapters"

FORMAT_VERSION = 1
"""Version of the file format of adapters and products. It rises when older packages can't read a file."""

REFERENCES_PREFIX = "photographs."
"""Prefix of a product's tensors about good photographs, except those of the decision."""

BUNDLED_ADAPTERS = "bundled_adapters"
"""Metadata key for the digest of the bundled adapters, which a product does not contain."""

FROZEN_PREFIX = "backbone."
"""Prefix of a model's frozen parameters. All others are adapters."""

DECISIONS: dict[str, type[FewShot]] = {"few_shot.": FewShot, "unlabeled.": MutualScoring}
"""Decisions by comparison with photographs, by the prefix of their tensors."""

DIGEST = "digest"
"""Metadata key for the digest of the file's content."""

TEXT_FEATURES = "text_features"
"""Name of the text features that were computed with the adapters."""

SIGNATURE_TOLERANCE = 2e-3
"""Largest difference between signatures of a CLIP in full and in half precision."""

WIDTHS_OF_TENSORS = (
    ("mvfbe.attention.norm.weight", 0),
    ("prompt_learner.normal_context", 1),
    ("text_fusion.strategies.attention.mlp.2.weight", 0),
)
"""Adapters, each with the dimension that has the width of the image tower, text tower or joint space."""


def describe_model(backbone: str, pretrained: str | None, weights: str | None, trained_on: str | None) -> str:
    """Describe a model in words: its CLIP, random if ``pretrained`` is ``None``, and the requested adapters.

    Example:
        >>> describe_model("ViT-L-14-336", "openai", "mine.safetensors", "VisA")
        'backbone ViT-L-14-336 with weights openai; adapters trained on VisA (mine.safetensors)'
    """
    adapters = f"trained on {trained_on}" if trained_on else "untrained"
    origin = f" ({printable(weights)})" if weights else ""
    return f"backbone {backbone} with weights {printable(pretrained or 'random')}; adapters {adapters}{origin}"


@dataclass(frozen=True)
class Adapters:
    """Trained adapters, by their names in :class:`~anomalib_fbclip.FBClipModel`.

    The metadata of a file of this project are those of :func:`describe_adapters`. Text features add ``text_strategies``
    and ``text_digest``. A product adds those of :meth:`~anomalib_fbclip.data.reference_set.ReferenceSet.keep`,
    ``arguments``, ``thresholds``, ``taught`` and ``changed``.

    Example:
        >>> adapters = Adapters.read(Path("adapters.safetensors"))  # doctest: +SKIP
        >>> adapters.load_into(model)  # doctest: +SKIP
    """

    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, Any]
    origin: str  # where they come from, as the subject of a message
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the model that they were trained with, if known
    normalizations: tuple[Normalization, Normalization] = (Normalization(), Normalization())  # of scores and of maps

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> Adapters:
        """Read adapters from a file without running code from it. Messages call it ``name``, or else by its path.

        It is a file of adapters, a product, or a checkpoint of anomalib or of the reference implementation.

        Raises:
            ValueError: If the file does not exist, can't be read or holds something else.
        """
        is_product = path.suffix == PRODUCT_SUFFIX
        origin = f"Product '{name or path}'" if is_product else f"Adapter weights '{name or path}'"
        was = "was" if is_product else "were"
        _check_file(path, origin)
        if path.suffix not in SUFFIXES:
            return cls._of_checkpoint(read_checkpoint(path, origin), origin)
        with reading(origin):
            tensors, texts = read_safetensors(path)
        if texts.pop("format", None) != FORMAT:
            maker = "fbclip teach" if is_product else "FBClip.save_adapters"
            msg = f"{origin} {was} not saved by {maker}: give a file that was."
            raise ValueError(msg)
        digest = texts.pop(DIGEST, None)
        with reading(origin):
            metadata = {key: json.loads(text) for key, text in texts.items()}
            is_newer = metadata.pop("format_version", 1) > FORMAT_VERSION
        if is_newer:
            msg = (
                f"{origin} {was} saved by anomalib-fbclip {metadata.get('version')}, which is newer than "
                f"{version('anomalib-fbclip')}: update the package."
            )
            raise ValueError(msg)
        adapters = cls(tensors, metadata, origin, arguments=metadata.get("arguments", {}))
        if is_product and not adapters.is_product:
            msg = f"{origin} has no good photographs: make it with 'fbclip teach good --output {printable(path)}'."
            raise ValueError(msg)
        if (is_product or digest is not None) and digest != digest_file(tensors, texts):
            msg = f"{origin} {was} changed or damaged: copy the file again, or make a new one."
            raise ValueError(msg)
        with reading(origin):
            check_metadata(metadata, tensors, is_product=adapters.is_product)
        return adapters._with_bundled() if BUNDLED_ADAPTERS in metadata else adapters

    @classmethod
    def _of_checkpoint(cls, checkpoint: object, origin: str) -> Adapters:
        """Extract the adapters from a checkpoint of anomalib or of the reference implementation."""
        if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
            tensors, source = convert_reference(checkpoint, origin)
            return cls(tensors, {"source": source}, origin)
        with reading(origin):
            state, parameters = checkpoint["state_dict"], checkpoint["hyper_parameters"]
            return cls(
                {name.removeprefix(MODEL_PREFIX): state[name] for name in state if name.startswith(MODEL_PREFIX)},
                checkpoint[CHECKPOINT_KEY],
                origin,
                {name: parameters[name] for name in ARGUMENT_KINDS if name in parameters},
                (Normalization.read(checkpoint, "image"), Normalization.read(checkpoint, "pixel")),
            )

    def _with_bundled(self) -> Adapters:
        """Add the bundled adapters to a product."""
        backbone = self.metadata.get("backbone")
        packaged = _read_bundled(backbone, self.metadata[BUNDLED_ADAPTERS])
        if packaged is None:
            msg = (
                f"{self.origin} needs other adapters of {backbone!r} than those in anomalib-fbclip "
                f"{version('anomalib-fbclip')}: teach it again, or install version {self.metadata.get('version')}."
            )
            raise ValueError(msg)
        return replace(
            self, tensors={**packaged.tensors, **self.tensors}, metadata={**packaged.metadata, **self.metadata}
        )

    @classmethod
    def of(cls, model: FBClipModel, metadata: Mapping[str, Any]) -> Adapters:
        """Collect a model's adapters, which share its memory, with metadata from :func:`describe_adapters`.

        Text features are added unless they are in 16 bits, where they are not exact.
        """
        tensors, features = adapter_tensors(model), model.text_features()
        if {model.backbone.precision, features.dtype} == {torch.float32}:
            tensors[TEXT_FEATURES] = features
            weights, digest = model.text_fusion.weights, model.text_digest()
            metadata = {**metadata, "text_strategies": weights, "text_digest": digest}
        return cls(tensors, metadata, "The model")

    def with_references(
        self,
        kept: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]],
        arguments: Mapping[str, Any],
        thresholds: Sequence[float | None],
        taught: str | None = None,
    ) -> Adapters:
        """Make a product: add the comparison with photographs that is ``kept``, and leave out bundled adapters.

        ``thresholds`` are those of scores and of anomaly maps, ``None`` where the photographs determine them. A product
        that was not ``taught`` before is taught now.
        """
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        dates = {"taught": taught or now, "changed": now}
        tensors, metadata = kept[0], {**kept[1], "arguments": arguments, "thresholds": thresholds, **dates}
        digest = digest_tensors(self.adapters)
        if _read_bundled(self.metadata.get("backbone"), digest) is None:
            return replace(self, tensors={**self.tensors, **tensors}, metadata={**self.metadata, **metadata})
        said = {name: value for name, value in self.metadata.items() if not name.startswith("text_")}
        return replace(self, tensors=tensors, metadata={**said, **metadata, BUNDLED_ADAPTERS: digest})

    @property
    def adapters(self) -> dict[str, torch.Tensor]:
        """The adapters alone, by their names in the model."""
        others = (*DECISIONS, REFERENCES_PREFIX, TEXT_FEATURES)
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(others)}

    @property
    def settled(self) -> dict[str, Any]:
        """Arguments of the model that a product fixes; empty for adapters alone."""
        if not self.is_product:
            return {}
        names = ("backbone", "image_size", "tiles", "feature_layers", "white_level")
        pretrained = resolve_pretrained(self.metadata["backbone"], self.metadata["pretrained"])
        image_threshold, pixel_threshold = self.metadata["thresholds"]
        return {
            **{name: self.metadata[name] for name in names},
            **self.arguments,
            "pretrained": pretrained,
            "image_threshold": image_threshold,
            "pixel_threshold": pixel_threshold,
        }

    @property
    def is_product(self) -> bool:
        """True if they come with good photographs."""
        return "photographs" in self.metadata

    def save(self, path: Path) -> None:
        """Write the adapters or a product to a file. See :func:`write_safetensors`."""
        texts = {key: json.dumps(value) for key, value in self.metadata.items()}
        texts["format_version"] = str(FORMAT_VERSION)
        digest = digest_file(self.tensors, texts)
        write_safetensors(path, self.tensors, {"format": FORMAT, DIGEST: digest, **texts})

    @property
    def source(self) -> str | None:
        """Dataset that the adapters were trained on; ``None`` if it is unknown."""
        return self.metadata.get("source")

    def check_backbone(self, backbone: str) -> None:
        """Raise ``ValueError`` if the adapters were trained on a backbone with another name or other widths."""
        trained_on = self.metadata.get("backbone", backbone)
        if trained_on != backbone:
            advice = "leave the backbone out" if self.is_product else "set 'backbone'"
            msg = f"{self.origin} holds adapters of backbone {trained_on!r}, but this model has {backbone!r}: {advice}."
            raise ValueError(msg)
        widths = resolve_widths(backbone)
        with reading(self.origin):
            found = [self.tensors[name].shape[dim] if name in self.tensors else None for name, dim in WIDTHS_OF_TENSORS]
        if any(width not in {None, wanted} for width, wanted in zip(found, widths, strict=True)):
            msg = (
                f"{self.origin} holds adapters of another backbone, with widths (image, text, joint) {found} instead "
                f"of {list(widths)}: set 'backbone'."
            )
            raise ValueError(msg)

    def check_signature(self, signature: list[float]) -> None:
        """Raise ``ValueError`` if a CLIP's signature differs from that of the training by more than half precision."""
        trained_on = self.metadata.get("signature", signature)
        if len(trained_on) != len(signature) or not np.allclose(trained_on, signature, atol=SIGNATURE_TOLERANCE):
            msg = (
                f"{self.origin} holds adapters trained on other weights of the backbone "
                f"({self.metadata.get('pretrained')!r}): set 'pretrained' to them."
            )
            raise ValueError(msg)

    def load_into(self, model: FBClipModel) -> None:
        """Copy all adapters into a model, or none if they don't fit.

        Raises:
            ValueError: If they were trained on other weights of the CLIP, names are missing or unknown, shapes differ,
                or the text features belong to other adapters.
        """
        self.check_signature(model.backbone.signature)
        self._check_text_features()
        text_features = self.tensors.get(TEXT_FEATURES)
        load_adapters(model, self.adapters, self.origin)
        if text_features is not None and model.text_digest() == self.metadata["text_digest"]:
            model.use_text_features(text_features)  # unless the model weighs the text strategies differently
        decision = self.read_decision(model)
        if decision is not None:
            model.decision = decision
            model.region = self.read_region(model) or model.region
        layers = [*model.backbone.feature_layers]
        if (trained_on := self.metadata.get("feature_layers", layers)) != layers:
            logger.warning("%s was trained on feature layers %s, but %s are used.", self.origin, trained_on, layers)

    def _check_text_features(self) -> None:
        if TEXT_FEATURES not in self.tensors:
            return
        digest = text_digest(self.tensors, self.metadata.get("text_strategies", {}))
        if digest != self.metadata.get("text_digest"):
            msg = f"{self.origin} holds text features of other adapters: save the adapters again."
            raise ValueError(msg)

    def read_decision(self, model: FBClipModel) -> FewShot | None:
        """Read the decision by comparison with photographs, if there is one, to the device of a model that it fits."""
        prefix = next((prefix for prefix in DECISIONS for name in self.tensors if name.startswith(prefix)), None)
        if prefix is None:
            return None
        tiling = model.tiling
        used = {
            "feature_layers": [*model.backbone.feature_layers],
            "tiles": [*tiling.count],
            "image_size": [*tiling.view_size],
        }
        for name, value in used.items():
            if (kept := self.metadata.get(name)) != value:
                msg = f"{self.origin} holds photographs with {name} {kept}, but {value} is used: leave '{name}' out."
                raise ValueError(msg)
        with reading(self.origin):
            tensors = {
                name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)
            }
            decision = DECISIONS[prefix].from_tensors(tensors, tiling.view_count)
            layers = len(used["feature_layers"])
            width = (layers - layers // 2) * self.adapters[WIDTHS_OF_TENSORS[0][0]].shape[0]
            patches = decision.memory.patches
            are_finite = all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values())
            are_single = all(tensor.numel() == 1 or tensor is patches for tensor in tensors.values())
            is_memory = patches.ndim == 3 and patches.shape[2] == width and patches.numel()  # noqa: PLR2004
            if not (are_finite and are_single and is_memory and decision.merge.spreads):
                raise ValueError
        return decision.to(model.anomaly_map_generator.kernel.device)

    def read_region(self, model: FBClipModel) -> RegionOfInterest | None:
        """Read the region of interest; ``None`` if there is none. See :meth:`read_decision`."""
        if self.metadata.get("region") is None:
            return None
        with reading(self.origin):
            pixels = torch.from_numpy(decode_region(self.metadata["region"]).copy())
        return model.region_of(pixels)


def _check_file(path: Path, origin: str) -> None:
    """Check that there is a file, and say how to get one if there is none."""
    is_product = path.suffix == PRODUCT_SUFFIX
    with reading(origin):
        is_folder, is_file = path.is_dir(), path.is_file()
    if is_folder:
        msg = f"{origin} {'is' if is_product else 'are'} a folder: give a file."
        raise ValueError(msg)
    if not is_file:
        other = (
            f"does not exist. Make it from good photographs: 'fbclip teach good --output {printable(path)}'"
            if is_product
            else f"do not exist. Give a file, 'auto', {' or '.join(map(repr, PUBLISHED))}"
        )
        msg = f"{origin} {other}."
        raise ValueError(msg)


def _read_bundled(backbone: str | None, digest: str) -> Adapters | None:
    """Read a bundled backbone's adapters, if they have this digest."""
    packaged = Adapters.read(bundled.ADAPTERS_FILE) if backbone == bundled.NAME else None
    return packaged if packaged and digest_tensors(packaged.adapters) == digest else None


def keep_decision(model: FBClipModel) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Collect the tensors of a model's decision by comparison, and its region of interest, for a file."""
    prefixes = [prefix for prefix, decision in DECISIONS.items() if type(model.decision) is decision]
    tensors = {f"{prefix}{name}": tensor for prefix in prefixes for name, tensor in model.decision.tensors().items()}
    region = None if model.region is None else encode_region(model.region.pixels.cpu().numpy())
    return tensors, {"region": region}


def adapter_tensors(model: FBClipModel) -> dict[str, torch.Tensor]:
    """Collect the adapters of a model by name. They share its memory."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(FROZEN_PREFIX)}


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest named tensors to 16 hexadecimal digits, which show whether others are the same."""
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_file(tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> str:
    """Digest a file's tensors and metadata to 64 hexadecimal digits: a changed byte could change verdicts."""
    digest = sha256(json.dumps(sorted(texts.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe_adapters(model: FBClipModel, backbone: str, pretrained: str | None, source: str | None) -> dict[str, Any]:
    """Collect the metadata of a model's adapters. Their source is the dataset that they were trained on."""
    return {
        "backbone": backbone,
        "pretrained": pretrained,
        "signature": model.backbone.signature,
        "image_size": list(model.tiling.view_size),
        "tiles": list(model.tiling.count),
        "feature_layers": list(model.backbone.feature_layers),
        "version": version("anomalib-fbclip"),
        "source": source,
    }


def load_adapters(model: FBClipModel, adapters: Mapping[str, torch.Tensor], origin: str) -> None:
    """Copy adapters into a model, or none if they don't fit. See :func:`check_state_dict`."""
    own = model.state_dict()
    frozen = {name: tensor for name, tensor in own.items() if name.startswith(FROZEN_PREFIX)}
    tensors = {**frozen, **adapters}
    check_state_dict(own, tensors, origin)
    model.load_state_dict(tensors)
