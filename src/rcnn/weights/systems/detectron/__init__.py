"""Detectron (Caffe2)."""
