"""The second stage: box, cascade, mask, keypoint and FCIS heads."""
