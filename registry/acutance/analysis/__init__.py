"""Statistics on tables; knows nothing of torch."""
