"""Probes on lines: where statements begin in a code object, and how one that begins is told of.

`starts` finds the places. Up to Python 3.11 `injection` puts a call there; from 3.12 on events of `sys.monitoring` that are local to the
code object do. Loaded when somebody asks for a line.
"""
