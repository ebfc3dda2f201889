# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The paper's protocol: test each category of a dataset, and average the metrics."""
