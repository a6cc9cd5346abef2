"""The libraries, with versions, and what of them is not put to the test."""

from __future__ import annotations

LIBRARIES = {
    "torchfm": "torchfm 0.7.0",
    "deepctr_torch": "deepctr-torch 0.3.0",
    "torch_rechub": "torch-rechub 0.9.0",
    "torch_rechub_matching": "torch-rechub 0.9.0",
    "recbole_general": "RecBole 1.2.1",
    "recbole_sequential": "RecBole 1.2.1",
    "recbole_context": "RecBole 1.2.1",
    "recbole_knowledge": "RecBole 1.2.1",
    "torchrec": "torchrec 1.8.0",
    "facebook_dlrm": "facebook's DLRM, its idioms",
}
"""Name of each library by the module of `tests.zoo_libraries.libraries` that lists its models."""
