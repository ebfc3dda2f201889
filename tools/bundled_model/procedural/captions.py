# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Captions of photographs."""

from numpy.random import Generator

PHOTOGRAPHS = ("a photo of {}.", "a close-up photo of {}.", "an industrial photo of {}.", "{}.", "an image of {}.")
"""Templates of a photograph of something."""

NORMAL = ("{} without defect", "a flawless {}", "an intact {}", "a good {}", "{}")
"""Templates of something without a defect."""

ANOMALOUS = ("{} with {}", "{} with a defect: {}", "a damaged {} with {}", "a defective {}", "{} that has {}")
"""Templates of something with a defect."""

UNCOUNTABLE = ("bubbles", "abrasion", "contamination", "corrosion")
"""Defects without an article."""


def describe(noun: str, defect: str | None, rng: Generator) -> str:
    """Make a caption of something, with or without a defect, from random templates.

    Args:
        noun (str): The subject, such as ``"wood surface"``.
        defect (str | None): Its defect, or ``None``.
        rng (Generator): Random stream that chooses the templates.
    """
    if defect is None:
        subject = _fill(str(rng.choice(NORMAL)), noun)
    else:
        subject = _fill(str(rng.choice(ANOMALOUS)), noun, defect if defect in UNCOUNTABLE else with_article(defect))
    return str(rng.choice(PHOTOGRAPHS)).format(subject)


def with_article(noun: str) -> str:
    """Put the indefinite article before a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _fill(template: str, noun: str, *others: str) -> str:
    return template.format(with_article(noun) if template.startswith("{}") else noun, *others)
