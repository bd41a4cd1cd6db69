"""The control plane: what a GridNode manifest asks for becomes Kubernetes objects."""
