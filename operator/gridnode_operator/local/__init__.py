"""GridNodes as processes on one machine: what the operator does in a cluster, without one.

A GridNode's pods are processes of ``gridnode serve`` (:mod:`.replica`) behind a loopback port (:mod:`.balancer`), its
Secrets are files (:mod:`.data_directory`), the shared database is an embedded server. What should be is compared with
what runs by one function (:meth:`.runner.GridNodeRunner.reconcile`). Neither kopf nor kubernetes is needed.
"""
