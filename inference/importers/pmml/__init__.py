"""PMML: models of Spark MLlib, scikit-learn, R and others as graphs, held against a plain evaluator of them."""
