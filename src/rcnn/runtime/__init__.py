"""What runs a model: its device and its arithmetic."""
