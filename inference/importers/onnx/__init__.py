"""Importer of ONNX graphs: embeddings become tables, what is left runs on onnxruntime (`model.import_onnx`)."""
