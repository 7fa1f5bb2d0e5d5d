"""Readers of file formats: each takes a path, and finds a surface, tables of points, or an array of clouds."""
