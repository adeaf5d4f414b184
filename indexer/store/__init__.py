"""The truth: one SQLite file with every root, image, content, vector, label and skip."""
