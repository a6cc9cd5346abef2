"""Importers: from models and tables of other makers to a version that is served as it is."""
