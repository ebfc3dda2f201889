# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's protocol: each category of a dataset is tested on its own, and the metrics are averaged."""
