"""Tests with other people's packages, in an environment of their own."""
