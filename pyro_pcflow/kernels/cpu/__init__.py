"""The kernel in C++: compiled once per machine, called through ctypes."""
