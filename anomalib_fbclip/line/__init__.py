# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Continuous inspection: arrivals, and the delivery of verdicts.

It imports neither torch nor a model, and watchfiles, OpenCV, httpx and paho-mqtt only where they are used.
"""
