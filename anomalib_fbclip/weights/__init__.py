# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""Weights of CLIPs and adapters: their sources, checks and files."""
