"""What the studies of test_executors.py are made of, as pip would lay it out."""
