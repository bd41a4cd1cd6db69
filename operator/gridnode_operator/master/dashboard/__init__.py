"""The dashboard: pages for people, served by the master node, with sessions of their own."""
