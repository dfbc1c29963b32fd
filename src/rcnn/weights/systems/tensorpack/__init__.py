"""tensorpack's Faster, Mask and Cascade R-CNN."""
