# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""What an inspection without an end needs around the model: what arrives, what is kept, and who is told of it.

Neither torch nor a model is imported. Of third parties, what is asked for: watchfiles, OpenCV, httpx or paho-mqtt.
"""
