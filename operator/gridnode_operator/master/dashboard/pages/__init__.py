"""The pages, a module for each entry of the navigation."""
