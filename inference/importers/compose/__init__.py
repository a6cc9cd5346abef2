"""Compose: pre-trained vectors of users and items, and a light model on top, as one version that predicts."""
