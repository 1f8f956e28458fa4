"""`cafe report`: records of runs as one self-contained HTML page.

The page needs no network and no server: its plotting library, its data and its pictures are in it.
Tables are plain HTML; only the figures need JavaScript.
"""

from cafe.report.page import write_report
from cafe.report.read_runs import collect
from cafe.report.report_data import ReportData

__all__ = ["ReportData", "collect", "write_report"]
