"""Files to pictures: find them, read them, decode them out of harm's way, and hand them on in batches."""
