"""`save_onnx`, and what each layer becomes."""
