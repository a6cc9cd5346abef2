"""The libraries, with their versions."""

from __future__ import annotations

LIBRARIES = {
    "recbole_sequential": "RecBole 1.2.1",
    "deepctr_torch": "deepctr-torch 0.3.0",
    "recbole_general": "RecBole 1.2.1",
    "torch_rechub": "torch-rechub 0.9.0",
    "recbole_context": "RecBole 1.2.1",
    "torch_rechub_matching": "torch-rechub 0.9.0",
    "torchfm": "torchfm 0.7.0",
    "recbole_knowledge": "RecBole 1.2.1",
    "torchrec": "torchrec 1.8.0",
    "facebook_dlrm": "facebook's DLRM, its idioms",
}
"""Name of each library by the module of `tests.zoo_libraries.libraries` that lists its models; longest first."""
