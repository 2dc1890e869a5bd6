"""ONNX files as networks, and networks as ONNX files."""
