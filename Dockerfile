# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0
#
# The command fbclip for exported models, without torch, on the CPU:
#
#   docker build --tag fbclip .
#   docker run --rm --user "$(id -u)" --volume "$PWD:/data" fbclip photographs --model model.xml

FROM python:3.13-slim AS build
RUN pip install --no-cache-dir --prefix /installed numpy pillow openvino jinja2 rich
COPY pyproject.toml README.md LICENSE NOTICE /source/
COPY configs /source/configs
COPY anomalib_fbclip /source/anomalib_fbclip
RUN pip install --no-cache-dir --prefix /installed --no-deps /source
# The image has no drivers of GPUs and NPUs.
RUN cd /installed/lib/python*/site-packages/openvino/libs && rm -f *_gpu_plugin.so *_npu_plugin.so cache.json

FROM python:3.13-slim
COPY --from=build /installed /usr/local
WORKDIR /data
ENTRYPOINT ["fbclip"]
