"""Planners: which tools a question needs; by rules, or by a language model whose plans are checked and repaired."""
