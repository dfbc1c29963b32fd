"""Writes detectors as ONNX, torch.export and OpenVINO files. Read write.py first."""
