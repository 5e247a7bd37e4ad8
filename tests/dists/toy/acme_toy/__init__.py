"""A third-party distribution, as pip would lay it out."""
