# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""How the documentation is built: ``sphinx-build -W docs <folder>``."""

from importlib import metadata

project = "anomalib-fbclip"
author = "anomalib-fbclip contributors"
release = metadata.version("anomalib-fbclip")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_argparse_cli"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings name them
napoleon_use_ivar = True
exclude_patterns = ["upstream"]  # for anomalib's repository
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # as README.md links to its sections
nb_execution_mode = "off"  # the notebooks are shown as they were run
html_theme = "furo"
html_title = project
