"""Trees and pipelines of sklearn, LightGBM and XGBoost: turned into ONNX, and imported as any graph."""
