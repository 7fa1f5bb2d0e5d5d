"""The kernel in C++: compiled once per machine, called by way of ctypes."""
