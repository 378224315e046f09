"""What writing the page will take: it reads the rows of the stages that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayonale.planning.flow import Estimate, Flow
from rayonale.planning.outlook import Outlook

if TYPE_CHECKING:
    from rayonale.report.stage import ReportSettings

ROW_SECONDS = 1e-4  # of a row that is read; assumed, as seen on two cores
PAGE_SECONDS = 0.3
PAGE_BYTES = 500_000.0


def report(outlook: Outlook, settings: ReportSettings) -> Estimate:
    """A page, whatever it shows; the time is in reading rows."""
    flows: list[Flow] = outlook.reads["stages"]
    rows = sum(flow.total for flow in flows if flow.known)
    return Estimate(
        rows_in=rows, parts={"page": PAGE_SECONDS, "rows": rows * ROW_SECONDS}, bytes=PAGE_BYTES,
        peak_bytes=PAGE_BYTES, basis=(f"{1e6 * ROW_SECONDS:g} µs a row assumed",),
    )  # fmt: skip
