"""`digits`: the 1,797 real 8 x 8 handwritten digits that scikit-learn carries, split 60/20/20."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from models_zoo.data import Augment, DataSet, TensorSplit, stratified_order

_MEAN, _STD = (0.305,), (0.376,)  # over all pixels, where full ink is 1


def load(*, seed: int = 0) -> DataSet:
    """Return the digits as (1, 8, 8) images in 10 classes: 1,078 train, 359 search, 360 test.

    Source: scikit-learn's `load_digits`, the test part of UCI's Optical Recognition of Handwritten Digits.
    """
    raw = load_digits()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)  # ink 0..16
    labels = torch.from_numpy(raw.target).long()
    order = stratified_order(labels, seed)
    n_search, n_test = len(order) // 5, len(order) - len(order) * 4 // 5
    test, search, train = torch.split(order, [n_test, n_search, len(order) - n_test - n_search])

    def split(idx: torch.Tensor, augment: Augment | None = None) -> TensorSplit:
        return TensorSplit(images[idx], labels[idx], mean=_MEAN, std=_STD, augment=augment)

    return DataSet(
        name="digits",
        train=split(train, Augment(pad=1)),
        search=split(search),
        test=split(test),
        classes=tuple("0123456789"),
        input_shape=(1, 8, 8),
    )
