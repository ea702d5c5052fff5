"""Execution of tasks: engines, progress, interruption."""
