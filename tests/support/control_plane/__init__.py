"""What a real Kubernetes control plane for the tests is made of; :mod:`tests.support.cluster` puts it together."""
