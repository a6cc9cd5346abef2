"""Evaluator of PMML, a row at a time: slow and plain, written apart from the graphs, which are held against it."""
