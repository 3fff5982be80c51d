"""Tests with third-party packages, in an environment of their own."""
