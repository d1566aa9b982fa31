"""Answers by generation, and their scores."""
