"""Results of runs: records, rows, averages, and the pages and curves that show them
(`../report.py`).
"""
