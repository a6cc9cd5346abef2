"""Tests of the importer of PMML."""
