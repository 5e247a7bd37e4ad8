"""Figures and the HTML page, made from tables; knows nothing of torch."""
