"""The front: what people call from Python, and the screen that shows a run to them."""
