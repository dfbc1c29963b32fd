"""Tests of rcnn.bench."""
