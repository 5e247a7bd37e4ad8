"""Files: checkpoints, folders, downloads, addresses, tables, YAML, atomic writing."""
