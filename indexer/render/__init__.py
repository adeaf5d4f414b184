"""Records to what people and programs read: tables, plain text, JSON lines, HTML."""
