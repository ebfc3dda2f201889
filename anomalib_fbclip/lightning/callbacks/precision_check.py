# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Rejects trainer precisions that would change verdicts."""

from lightning.pytorch import Callback, LightningModule, Trainer

ALTERNATIVES = {
    "16-true": "16-mixed, or --model.backbone_precision float16 to save memory",
    "bf16-true": "bf16-mixed, or --model.backbone_precision bfloat16 to save memory",
    "64-true": "32-true",
}
"""Precisions of the trainer in which the whole module is converted, thresholds included, and what to take instead."""


class PrecisionError(ValueError):
    """A precision of the trainer can't be used. The message is one line: which one, why, and what to take instead."""


def check_precision(precision: str) -> None:
    """Check that a precision of the trainer leaves thresholds, masks and scores as they are.

    Args:
        precision (str): Precision of the trainer, as lightning names it.

    Raises:
        PrecisionError: If the trainer would convert the whole module to it.
    """
    if precision in ALTERNATIVES:
        msg = (
            f"Trainer precision {precision!r} converts FBClip's thresholds and masks, too, and with them the verdicts: "
            f"take {ALTERNATIVES[precision]}."
        )
        raise PrecisionError(msg)


class PrecisionCheck(Callback):
    """Refuses a precision of the trainer that would change the verdicts."""

    @staticmethod
    def setup(trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the trainer's precision.

        Raises:
            PrecisionError: If the trainer converts the whole model to it.
        """
        del pl_module, stage
        check_precision(trainer.precision)
