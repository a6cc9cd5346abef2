"""Weights of a useful size: as libraries build their models, most scores are almost the same for all rows."""

from __future__ import annotations

import math

import torch
from torch import nn

SMALL = 0.02
"""Standard deviation below which other weights are drawn anew."""
HUGE = 10.0
"""Standard deviation above which they are, too; nor is NaN between the two."""
EMBEDDING_STD = 0.5
GAIN = 1.4
"""Factor of a linear layer's standard deviation, that of ReLU: half of what goes in does not come out."""
LARGE = 5_000
"""Rows from which a weight is an embedding, whatever holds it."""


def make_useful(module: nn.Module, seed: int = 7) -> None:
    """Draw embeddings from N(0, 0.25), and other weights by their fan-in; padding rows stay zero."""
    generator = torch.Generator().manual_seed(seed)
    looked_up = {
        id(part.weight): part.padding_idx
        for part in module.modules()
        if isinstance(part, nn.Embedding | nn.EmbeddingBag)
    }
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.is_floating_point() or isinstance(weight, nn.UninitializedParameter):
                continue
            if id(weight) in looked_up:
                weight.normal_(0, EMBEDDING_STD, generator=generator)
                padding = looked_up[id(weight)]
                if padding is not None:
                    weight[padding] = 0
            elif weight.dim() >= 2 and weight.shape[0] > LARGE:
                weight.normal_(0, EMBEDDING_STD, generator=generator)
            elif weight.dim() == 2:
                weight.normal_(0, GAIN / math.sqrt(max(1, weight.shape[-1])), generator=generator)
            elif weight.dim() > 2 and not SMALL <= float(weight.std()) <= HUGE:  # some libraries leave memory as it is
                weight.normal_(0, 1 / math.sqrt(weight.shape[-1]), generator=generator)
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.normal_(0, 0.3, generator=generator)
                part.running_var.uniform_(0.5, 2.0, generator=generator)
