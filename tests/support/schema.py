# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""The JSON Schema of a row of the table."""

import json
from importlib.resources import files
from typing import Any


def read_schema() -> dict[str, Any]:
    return json.loads((files("anomalib_fbclip.results") / "prediction.schema.json").read_text(encoding="utf-8"))
