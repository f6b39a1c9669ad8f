"""Models: loading them, their parts, and fast exact passes through them."""
