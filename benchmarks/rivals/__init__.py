"""What the models of the package are compared with: other densities, other decoders, other libraries."""
