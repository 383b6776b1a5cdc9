"""From a policy to a folder that any program can route with: ONNX, NumPy and words."""
