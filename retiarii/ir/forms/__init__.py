"""What a graph can be written as: text, JSON, networkx, a picture, ONNX."""
