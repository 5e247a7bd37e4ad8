"""What a config says: its file, the surface section, targets, the plan of cells, attributes, the schema.

The function ``acutance.study`` has this package's name: write ``from acutance.study.config import load_config``.
"""
