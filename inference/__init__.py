"""Inference, from request to score: the feature schema, the head that serves a model, its clients, the export."""
