"""A Kubernetes cluster with a real kubelet, in namespaces of its own on this machine: nothing of the host changes."""
