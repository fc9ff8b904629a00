"""Code that several editing methods use."""
