"""From request to score: the feature schema, the head that serves a model, its clients, the export of models."""
