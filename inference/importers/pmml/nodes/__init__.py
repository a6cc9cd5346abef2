"""Models of PMML as nodes of an ONNX graph: float64 inside, NaN for what is missing."""
