"""Kinds of models of PMML as values: what an element says, read and checked, and nothing of how it is computed."""
