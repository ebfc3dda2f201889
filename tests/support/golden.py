# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The reference's numbers, and the weights and images that they belong to.

Each weight depends on its name in the reference, its shape and a seed only, so none is stored.
"""

import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812

FOLDER = Path(__file__).parent.parent / "golden"


def randn(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Draw standard normal values; numpy guarantees that its RandomState streams never change."""
    stream = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    return torch.from_numpy(np.asarray(stream.standard_normal(shape))).float().reshape(shape)


def fill(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:  # noqa: PLR0911 - one for each kind
    """Value of the tensor that has this name in the reference's state dict."""
    values = randn(name, shape, seed)
    if name.endswith(("fg_scale", "bg_scale")):
        return 0.125 * (1 + 0.2 * values)
    if name.endswith("scale_weights"):
        return 1 / 6 + 0.3 * values
    if name.endswith(("fusion_weights", "fusion_weight", "layer_selector", "logit_scale")):
        return 0.3 * values
    if name.endswith("bias"):
        return 0.05 * values
    if len(shape) == 1 and name.endswith("weight"):
        return 1 + 0.1 * values
    if name.endswith(("token_embedding.weight", "positional_embedding")):
        return 0.3 * values
    if name.endswith("class_embedding"):
        return 0.5 * values
    if name.startswith(("ctx_", "compound_prompts_text")):
        return 0.3 * values
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    if name.endswith(("proj", "text_projection")) and len(shape) == 2:
        fan_in = shape[0]
    return values * fan_in**-0.5


class Golden:
    """One golden file: its tensors, and the model config, weights and images that it was computed with."""

    def __init__(self, name: str) -> None:
        path = FOLDER / f"{name}.safetensors"
        self.name = name
        self.tensors = load_file(path)
        with safe_open(path, "pt") as file:
            self.config: dict[str, Any] = json.loads(file.metadata()["config"])
        self.seed = self.config["seed"]
        side = self.config["image_size"]
        self.grid = (side // self.config["patch"],) * 2
        low = randn("image.low", (self.config["batch"], 3, 6, 6), self.seed)
        noise = randn("image.noise", (self.config["batch"], 3, side, side), self.seed)
        self.images = F.interpolate(low, (side, side), mode="bicubic", align_corners=False) + 0.3 * noise

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def write_clip_config(self, folder: Path) -> Path:
        """Write the open_clip model config and return its path."""
        path = folder / f"golden-{self.name}.json"
        config = {
            "embed_dim": self.config["embed_dim"],
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": self.config["image_resolution"],
                "layers": self.config["vision_layers"],
                "width": self.config["vision_width"],
                "patch_size": self.config["patch"],
            },
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 49408,
                "width": self.config["text_width"],
                "heads": self.config["text_width"] // 64,
                "layers": self.config["text_layers"],
            },
        }
        path.write_text(json.dumps(config))
        return path

    def write_clip_weights(self, folder: Path, backbone: str) -> Path:
        """Write the CLIP's weights, under OpenAI's names, and return their path."""
        path = folder / f"golden-{self.name}.safetensors"
        with torch.device("meta"):
            shapes = open_clip.create_model(backbone, device="meta").state_dict()
        save_file({name: fill(name, tuple(tensor.shape), self.seed) for name, tensor in shapes.items()}, path)
        return path

    def reference_checkpoint(self) -> dict[str, Any]:
        """Return the adapters, as the reference saves them."""
        text_width, width = self.config["text_width"], self.config["vision_width"]
        embedding_width, inner = self.config["embed_dim"], 512
        branch = {
            "norm.weight": (width,),
            "norm.bias": (width,),
            "to_q.weight": (inner, width),
            "to_k.weight": (inner, width),
            "to_v.weight": (inner, width),
            "to_out.0.weight": (width, inner),
            "to_out.0.bias": (width,),
            "scale": (),
        }
        trainable = {f"fb_Attention.{side}_{name}": shape for side in ("fg", "bg") for name, shape in branch.items()}
        trainable |= {
            "fb_Attention.gate.0.weight": (width // 2, width),
            "fb_Attention.gate.0.bias": (width // 2,),
            "fb_Attention.gate.2.weight": (1, width // 2),
            "fb_Attention.gate.2.bias": (1,),
            "fb_Attention.norm.weight": (width,),
            "fb_Attention.norm.bias": (width,),
            "token_selector.0.weight": (text_width // 2, text_width),
            "token_selector.0.bias": (text_width // 2,),
            "token_selector.2.weight": (1, text_width // 2),
            "token_selector.2.bias": (1,),
            "text_projection_mlp.0.weight": (text_width, text_width),
            "text_projection_mlp.0.bias": (text_width,),
            "text_projection_mlp.2.weight": (embedding_width, text_width),
            "text_projection_mlp.2.bias": (embedding_width,),
            "scale_weights": (6,),
            "fusion_weights": (3,),
            "fusion_weight": (),
            "gate_network.0.weight": (8, 8),
            "gate_network.0.bias": (8,),
            "gate_network.2.weight": (1, 8),
            "gate_network.2.bias": (1,),
            "layer_selector": (18,),
        }
        prompts = {"ctx_pos": (1, 1, 12, text_width), "ctx_neg": (1, 1, 12, text_width)}
        prompts |= {
            f"{kind}_{state}": shape
            for state in ("pos", "neg")
            for kind, shape in (("token_prefix", (1, 1, 1, text_width)), ("token_suffix", (1, 1, 64, text_width)))
        }
        prompts |= {f"compound_prompts_text.{index}": (4, text_width) for index in range(8)}
        prompts |= {f"compound_prompt_projections.{index}.weight": (8, text_width) for index in range(8)}
        prompts |= {f"compound_prompt_projections.{index}.bias": (8,) for index in range(8)}
        tokens = {f"tokenized_prompts_{state}": torch.zeros(1, 77, dtype=torch.int64) for state in ("pos", "neg")}
        return {
            "prompt_learner": {name: fill(name, shape, self.seed) for name, shape in prompts.items()} | tokens,
            "model_trainable_params": {name: fill(name, shape, self.seed) for name, shape in trainable.items()},
            "epoch": 2,
            "loss": np.float64(0.25),
            "source_domain": "mvtec",
        }


def save_as_numpy_1(checkpoint: dict[str, Any], path: Path) -> Path:
    """Save a checkpoint with its numpy scalar under the module name that numpy 1.x gives it."""
    new = path.with_suffix(".numpy2")
    torch.save(checkpoint, new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            target.writestr(name, content)
    new.unlink()
    return path
