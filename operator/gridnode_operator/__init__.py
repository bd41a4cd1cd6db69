"""The control plane: turns GridNode manifests into running nodes."""
