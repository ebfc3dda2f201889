# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Continuous inspection: arrivals, the outbox of verdicts, and their delivery.

Neither torch nor a model is imported. Of third parties, what is asked for: watchfiles, OpenCV, httpx or paho-mqtt.
"""
