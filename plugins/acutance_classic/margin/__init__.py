"""Margins: how far outputs, features and networks are from another answer."""
