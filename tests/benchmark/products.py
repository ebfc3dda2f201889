# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""How verdicts change when a product learns from its false alarms, and how well products are told apart::

    python tests/benchmark/products.py datasets/photographs/cookie datasets/photographs/hazelnut

Each folder is a category in MVTec AD's layout. A product is taught with eight photographs of ``train/good``. Then the
false alarms among the first half of ``test/good`` are added to it. Figures are those of the other half, and of the
defective photographs.

With two folders or more, each photograph of ``test`` is compared with all products, and with all but its own.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from anomalib_fbclip.cli.inspection import ComparedPrediction
from anomalib_fbclip.cli.torch_inferencer import TorchInferencer
from anomalib_fbclip.images.image_files import find_images

SHOTS = 8


def load(*products: str | Path) -> TorchInferencer:
    """Load one product or several, or the usual weights."""
    first, *others = products or ("auto",)
    inferencer = TorchInferencer(None, str(first), "cpu", "float32", None, None)
    for path in others:
        inferencer.add_product(Path(path))
    return inferencer


def share(inferencer: TorchInferencer, paths: Sequence[Path]) -> str:
    """Give the share of photographs that are called anomalous."""
    called = [prediction.is_anomalous for prediction in inferencer.stream(paths)]
    return f"{sum(called)} of {len(called)}"


def teach(category: Path, product: Path) -> None:
    """Teach a product, write it to a file, and print what its false alarms change."""
    good = find_images(category / "train" / "good")
    chosen = sorted(random.Random(0).sample(good, min(SHOTS, len(good))))
    tested = find_images(category / "test" / "good")
    random.Random(0).shuffle(tested)
    looked_at, others = tested[: len(tested) // 2], tested[len(tested) // 2 :]
    defective = [path for path in find_images(category / "test") if path.parent.name != "good"]
    inferencer = load()
    inferencer.compare_with(inferencer.read_references(chosen), lambda: None)
    inferencer.to_product(None).save(product)
    before = share(inferencer, others), share(inferencer, defective)
    alarms = [p.path for p in inferencer.stream(looked_at) if p.is_anomalous and p.path is not None]
    if alarms:
        inferencer = load(product)
        inferencer.compare_with(inferencer.change_references(alarms, set()), lambda: None)
    after = share(inferencer, others), share(inferencer, defective)
    print(
        f"{category.name}: {len(alarms)} false alarms of {len(looked_at)} learned; good ones called anomalous: "
        f"{before[0]}, then {after[0]}; defective ones found: {before[1]}, then {after[1]}",
        flush=True,
    )


def tell_apart(categories: Sequence[Path], products: Sequence[Path]) -> None:
    """Print how many photographs are compared with their own product, and found to be like none without it."""
    together = load(*products)
    right = unknown = total = found = 0
    for category, own in zip(categories, products, strict=True):
        paths = [path for path in find_images(category / "test") if path.is_file()]
        for prediction in together.stream(paths):
            if isinstance(prediction, ComparedPrediction):
                total += 1
                right += prediction.product == own.stem
                unknown += prediction.is_unknown
        if len(products) > 2:
            without = load(*(product for product in products if product != own))
            found += sum(one.is_unknown for one in without.stream(paths) if isinstance(one, ComparedPrediction))
    print(f"{total} photographs of {len(products)} products: {right} compared with their own, {unknown} like none")
    print(f"without their own product: {found} like none")


def main() -> None:
    """Measure the products of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("categories", nargs="+", type=Path)
    categories = parser.parse_args().categories
    with TemporaryDirectory() as folder:
        products = [Path(folder, f"{category.name}.fbclip") for category in categories]
        for category, product in zip(categories, products, strict=True):
            teach(category, product)
        if len(products) > 1:
            tell_apart(categories, products)


if __name__ == "__main__":
    main()
